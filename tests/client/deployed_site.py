"""A deployed site on synthetic data, and what it answers, without a server."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml
from builders import PROGNOSIS, synthetic_site
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, RecordDict

from client.admission import Order
from client.app import app
from mdmt.blob import BLOB, Arrays
from mdmt.config import FederationConfig, WireConfig
from mdmt.frozen import FROZEN
from mdmt.messages import EvaluateOrder, Query, ReferenceOrder, TrainOrder
from mdmt.wire import Codec
from server.federation import initial_arrays
from simulation.engine import task_identity

RUN = "0" * 12
KINDS: dict[type[Order], str] = {
    TrainOrder: "train",
    EvaluateOrder: "evaluate",
    ReferenceOrder: "evaluate.reference",
    Query: "query",
}


class Ward:
    """A deployed site with one task that approved `config`.

    Arrays are the initial ones of the recipe unless a test gives others.
    """

    def __init__(self, folder: Path, config: FederationConfig, **policy: Any) -> None:
        self.folder, self.config = folder, config
        self.site = synthetic_site(folder, "prognosis", patients=20) | {
            "name": "ward",
            "tasks": {"prognosis": PROGNOSIS},
            "state_dir": "state",
        }
        self.policy: dict[str, Any] = {"recipes": [config.hash]} | policy
        self.allow()

    def allow(self, **policy: Any) -> None:
        """Change keys of the policy, as the engineer of the site would; None removes one."""
        self.policy = {k: v for k, v in (self.policy | policy).items() if v is not None}
        self.write()

    def write(self, **site: Any) -> None:
        """Write the file of the site, with changed keys."""
        self.site |= site
        text = yaml.safe_dump(self.site | {"policy": self.policy})
        (self.folder / "site.yaml").write_text(text)

    def ask(
        self, order: Order, arrays: Arrays | bytes | None = None, frozen: bytes = b""
    ) -> Message:
        """Return the answer to an order."""
        content = RecordDict({"config": ConfigRecord({"order": order.model_dump_json()})})
        if not isinstance(order, Query):
            codec = Codec(self.config.wire if isinstance(order, TrainOrder) else WireConfig())
            arrays = initial_arrays(self.config) if arrays is None else arrays
            blob = arrays if isinstance(arrays, bytes) else codec.broadcast(arrays)
            blobs = {BLOB: blob} | ({FROZEN: frozen} if frozen else {})
            content["arrays"] = ArrayRecord(
                {name: Array("uint8", (len(b),), BLOB, b) for name, b in blobs.items()}
            )
        site = str(self.folder / "site.yaml")
        with task_identity():
            message = Message(content, 2, KINDS[type(order)])
            message.metadata.__dict__["_message_id"] = "asked"
            return app(message, Context(1, 2, {"site": site}, RecordDict(), {}))

    def train(
        self,
        number: int = 1,
        arrays: Arrays | bytes | None = None,
        sent: bytes = b"",
        **changes: Any,
    ) -> Message:
        """Return the answer to a training order; `sent` has the frozen arrays.

        `changes` are keys of the order.
        """
        order = {
            "run": RUN,
            "round": number,
            "recipe": self.config.recipe,
            "coefficients": {"prognosis": 1.0},
            "lr_factor": 1.0,
            "keep": (),
        }
        return self.ask(TrainOrder.model_validate(order | changes), arrays, sent)

    def evaluate(self, number: int, arrays: Arrays | None = None, run: str = RUN) -> Message:
        """Return the answer to an evaluation order."""
        return self.ask(EvaluateOrder(run=run, round=number, recipe=self.config.recipe), arrays)

    def reference(self, arrays: Arrays | None = None) -> Message:
        """Return the answer to a reference order."""
        return self.ask(ReferenceOrder(run=RUN, round=1, recipe=self.config.recipe), arrays)

    def query(self) -> Message:
        """Return the answer to a query."""
        return self.ask(Query(recipe=self.config.recipe))


def report(answer: Message) -> dict[str, Any]:
    """Return the report of an answer, which must not be an error."""
    assert not answer.has_error(), answer.error.reason
    found: dict[str, Any] = json.loads(str(answer.content.config_records["report"]["json"]))
    return found


def update(answer: Message) -> bytes:
    """Return the encoded arrays of an answer."""
    report(answer)
    return answer.content.array_records["arrays"][BLOB].data


def refusal(answer: Message) -> str:
    """Return the text of an error."""
    assert answer.has_error()
    return str(answer.error.reason)
