"""Arrays in Flower's records: one by one for its strategies, in one blob for a message."""

from __future__ import annotations

from typing import Any

import numpy as np
from flwr.app import Array, ArrayRecord, RecordDict
from numpy.typing import NDArray

from mdmt.messages import SiteCard
from mdmt.models import head_task
from mdmt.wire import BLOB, Arrays, pack

__all__ = ["blob_record", "concerns", "content_bytes", "from_record", "pack_record", "to_record"]


class _Here(Array):
    """An array that no message carries: Flower's strategies read it where it is."""

    def __init__(self, array: NDArray[Any]) -> None:
        super().__init__(str(array.dtype), array.shape, "numpy.ndarray", b"")
        self.__dict__["here"] = array

    def numpy(self) -> NDArray[Any]:
        """The array itself."""
        array: NDArray[Any] = self.__dict__["here"]
        return array


def to_record(arrays: Arrays) -> ArrayRecord:
    """Put arrays into a record for Flower's strategies, without a copy."""
    record = ArrayRecord()
    for name, array in arrays.items():  # its constructor would copy them
        record[name] = _Here(np.asarray(array))
    return record


def from_record(record: ArrayRecord) -> dict[str, NDArray[np.floating]]:
    """Take arrays out of a record of Flower's strategies."""
    return {name: array.numpy() for name, array in record.items()}


def blob_record(blob: bytes) -> ArrayRecord:
    """Put a blob (`mdmt.wire`) into a Flower record as it travels."""
    return ArrayRecord({BLOB: Array("uint8", (len(blob),), BLOB, blob)})


def pack_record(arrays: Arrays, **facts: str) -> ArrayRecord:
    """Put arrays into a Flower record as they travel, exact."""
    return blob_record(pack(arrays, **facts))


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
