"""Messages as a site gets and gives them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from blobs import pack_record
from deployed_site import Ward
from flwr.app import ConfigRecord, Message, RecordDict
from numpy import float32

from mdmt.config import FederationConfig
from simulation.engine import task_identity


@pytest.fixture
def ask() -> Any:
    """Builder of server messages: ``ask("train", order_json, w=[1.0, 2.0])``."""

    def build(kind: str, order: str, **arrays: list[float]) -> Message:
        content = RecordDict({"config": ConfigRecord({"order": order})})
        content["arrays"] = pack_record({k: float32(v) for k, v in arrays.items()})
        message = Message(content, 2, kind)
        message.metadata.__dict__["_message_id"] = "asked"
        return message

    with task_identity():
        yield build


@pytest.fixture
def reply(ask: Callable[..., Message]) -> Callable[..., Message]:
    """Builder of replies: ``reply("train", report_json, w=[1.0, 2.0])``."""

    def build(kind: str, report: str, **arrays: list[float]) -> Message:
        content = RecordDict({"report": ConfigRecord({"json": report})})
        content["arrays"] = pack_record({k: float32(v) for k, v in arrays.items()})
        return Message(content, reply_to=ask(kind, "{}"))

    return build


@pytest.fixture
def ward(tmp_path: Path, make_config: Callable[..., FederationConfig]) -> Callable[..., Ward]:
    """Builder of a deployed site that approved a federation."""
    return lambda policy=None, **changes: Ward(tmp_path, make_config(**changes), **(policy or {}))
