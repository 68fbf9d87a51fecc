"""Arrays as they travel: all of a message in one safetensors blob, which describes itself.

Flower moves every array of a message by requests of its own; a backbone has hundreds.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load, save

__all__ = ["BLOB", "describe", "pack", "unpack"]

BLOB = "safetensors"
"""Name and kind of the one array of a message."""
_HEADER_LENGTH = 8
"""Bytes in which a blob tells how long its header is."""


def pack(arrays: Mapping[str, NDArray[np.floating]]) -> bytes:
    """Turn named arrays into one blob."""
    blob: bytes = save({name: np.asarray(value, order="C") for name, value in arrays.items()})
    return blob


def unpack(blob: bytes) -> dict[str, NDArray[np.floating]]:
    """Read a blob's arrays, which cannot be written to.

    Raises
    ------
    ValueError
        It is not a blob of NumPy arrays.
    """
    try:
        arrays: dict[str, NDArray[np.floating]] = load(blob)
    except (SafetensorError, KeyError, TypeError) as error:
        raise ValueError(f"not a safetensors blob of arrays: {error}") from error
    return arrays


def describe(blob: bytes) -> dict[str, tuple[str, tuple[int, ...], int]]:
    """Name → dtype, shape and bytes of a blob's arrays, read from its header alone.

    Raises
    ------
    ValueError
        It is not a blob.
    """
    length = int.from_bytes(blob[:_HEADER_LENGTH], "little")
    header: dict[str, Any] = json.loads(blob[_HEADER_LENGTH : _HEADER_LENGTH + length])
    try:
        return {
            name: (str(a["dtype"]), tuple(a["shape"]), a["data_offsets"][1] - a["data_offsets"][0])
            for name, a in header.items()
            if name != "__metadata__"
        }
    except (TypeError, KeyError, IndexError, AttributeError) as error:
        raise ValueError("not a safetensors header") from error
