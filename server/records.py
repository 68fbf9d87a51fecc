"""Arrays in Flower's records: one by one for its strategies, in one blob for a message."""

from __future__ import annotations

import numpy as np
from flwr.app import Array, ArrayRecord, RecordDict
from numpy.typing import NDArray

from mdmt.messages import SiteCard
from mdmt.models import head_task
from mdmt.wire import BLOB, pack
from server.aggregation import Arrays

__all__ = ["concerns", "content_bytes", "from_record", "pack_record", "to_record"]


def to_record(arrays: Arrays) -> ArrayRecord:
    """Put arrays into a record for Flower's strategies."""
    return ArrayRecord({name: Array(np.ascontiguousarray(value)) for name, value in arrays.items()})


def from_record(record: ArrayRecord) -> dict[str, NDArray[np.floating]]:
    """Take arrays out of a record of Flower's strategies."""
    return {name: array.numpy() for name, array in record.items()}


def pack_record(arrays: Arrays) -> ArrayRecord:
    """Put arrays into a Flower record as they travel: one blob."""
    blob = pack(arrays)
    return ArrayRecord({BLOB: Array("uint8", (len(blob),), BLOB, blob)})


def concerns(card: SiteCard, name: str) -> bool:
    """Whether an array is of the backbone, or of the head of a task that the site has."""
    task = head_task(name)
    return task is None or task in card.tasks


def content_bytes(content: RecordDict) -> int:
    """Payload bytes of a message: its arrays as serialised, and its text."""
    arrays = sum(len(a.data) for record in content.array_records.values() for a in record.values())
    texts = sum(
        len(str(value)) for record in content.config_records.values() for value in record.values()
    )
    return arrays + texts
