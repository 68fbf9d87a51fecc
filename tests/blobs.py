"""Arrays as a message carries them."""

from __future__ import annotations

from flwr.app import Array, ArrayRecord

from mdmt.blob import BLOB, Arrays, pack

__all__ = ["blob_record", "pack_record"]


def blob_record(blob: bytes) -> ArrayRecord:
    """A record with one blob."""
    return ArrayRecord({BLOB: Array("uint8", (len(blob),), BLOB, blob)})


def pack_record(arrays: Arrays) -> ArrayRecord:
    """A record with these arrays, exact."""
    return blob_record(pack(arrays))
