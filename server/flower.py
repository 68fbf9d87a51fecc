"""Flower's private modules at the server. No other file of `server` imports them.

A new Flower version changes this file and `client/flower.py`. Modules that are slow to import (the
command line, the error codes) are imported inside the functions that need them: a simulation needs
none.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING, Any, Protocol

from flwr.common.constant import ErrorCode  # what Flower answers in a site's stead
from flwr.proto import control_pb2  # requests to the SuperLink
from flwr.proto.node_pb2 import NodeInfo  # what `Grid.get_nodes` returns
from flwr.supercore.control import ControlHttpClient  # the connection to the SuperLink
from flwr.supercore.primitives.asymmetric import public_key_to_bytes  # how Flower encodes keys
from flwr.supercore.run import Run  # what a grid of our own has to hold
from flwr.supercore.task_identity import TaskIdentity  # who sends the messages of this process

if TYPE_CHECKING:
    import httpx

__all__ = [
    "ErrorCode",
    "NodeInfo",
    "Run",
    "Ask",
    "bundle_hash",
    "connect_control",
    "public_key_to_bytes",
    "refused_with",
    "task_identity",
]


@contextmanager
def task_identity(node_id: int = 1) -> Iterator[None]:
    """Let a process that Flower did not start create messages, as node `node_id` of run 1.

    The `Message` constructor asks a private class of Flower for the sender.
    """
    before = TaskIdentity._task_id, TaskIdentity._run_id, TaskIdentity._node_id
    TaskIdentity.task_id, TaskIdentity.run_id, TaskIdentity.node_id = 1, 1, node_id
    try:
        yield
    finally:
        TaskIdentity._task_id, TaskIdentity._run_id, TaskIdentity._node_id = before


class Ask(Protocol):
    """A connection to the Control API."""

    def __call__(self, method: str, **fields: Any) -> Any:
        """Send a request with this name and these fields. Return the answer."""


@contextmanager
def connect_control(address: str, ca_certificate: bytes) -> Iterator[Ask]:
    """Connect to the Control API of a SuperLink."""
    from flwr.supercore.interceptors import RuntimeVersionHttpInterceptor  # it checks the version

    client = ControlHttpClient.from_server_address(
        server_address=address,
        insecure=False,
        root_certificates=ca_certificate,
        interceptors=[RuntimeVersionHttpInterceptor(component_name="flwr CLI")],
    )

    def ask(method: str, **fields: Any) -> Any:
        return getattr(client, method)(getattr(control_pb2, f"{method}Request")(**fields))

    with closing(client):
        yield ask


def refused_with(response: httpx.Response, name: str) -> bool:
    """Return True if the answer of the SuperLink has the error ``ApiErrorCode[name]``."""
    from flwr.supercore.error import ApiErrorCode, FlowerError

    error = FlowerError.from_json(response.text)
    return error is not None and error.code == ApiErrorCode[name]


def bundle_hash(files: Mapping[str, bytes]) -> str:
    """Return the SHA-256 of the bundle that ``flwr run`` builds from these files."""
    from flwr.cli.build import build_fab_from_files

    bundle, _ = build_fab_from_files(dict(files))
    return hashlib.sha256(bundle).hexdigest()
