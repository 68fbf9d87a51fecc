"""The messages that carry orders and arrays to sites."""

from __future__ import annotations

from flwr.app import Array, ArrayRecord, ConfigRecord, Message, RecordDict
from pydantic import BaseModel

from mdmt.blob import BLOB
from mdmt.config import FederationConfig
from mdmt.frozen import FROZEN, FrozenArrays


def request(
    kind: str, node: int, order: BaseModel, blob: bytes, timeout: float, frozen: bytes = b""
) -> Message:
    """Create a message with an order and arrays.

    Parameters
    ----------
    kind : str
        Message type of Flower.
    node : int
    order : BaseModel
    blob : bytes
        Arrays, encoded by `Codec.broadcast`.
    timeout : float
        Seconds after which Flower drops the message.
    frozen : bytes
        `FrozenArrays.blob`, if the site needs it.
    """
    content = RecordDict(
        {
            "arrays": _record(blob, frozen),
            "config": ConfigRecord({"order": order.model_dump_json()}),
        }
    )
    return Message(content, node, kind, ttl=timeout)


def with_frozen(message: Message, frozen: FrozenArrays) -> Message:
    """Return a message with the frozen arrays added."""
    content, about = RecordDict(dict(message.content)), message.metadata
    content["arrays"] = _record(content.array_records["arrays"][BLOB].data, frozen.blob)
    return Message(content, about.dst_node_id, about.message_type, ttl=about.ttl)


def _record(blob: bytes, frozen: bytes) -> ArrayRecord:
    blobs = {BLOB: blob} | ({FROZEN: frozen} if frozen else {})
    return ArrayRecord({name: Array("uint8", (len(b),), BLOB, b) for name, b in blobs.items()})


def deadline(config: FederationConfig, requests: int, rounds: int = 1) -> float:
    """Return the seconds in which sites must answer.

    The sites of a simulation share one machine and wait for each other. So the deadline is the sum
    of their times, and the own time of each site is compared with `round_timeout` afterwards.
    """
    sharing = max(1, requests) if config.sites else 1
    return config.training.round_timeout * max(1, rounds) * sharing
