"""Named arrays as one block of bytes in the safetensors format.

Flower sends each array of a message in separate requests, and a backbone has hundreds of arrays.
Therefore a message has one blob. Reading a blob makes no copy.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

Arrays = Mapping[str, NDArray[Any]]

_Entry = tuple[str, tuple[int, ...], int, int]

BLOB = "safetensors"
"""Name and type of the one array of a message."""
_TYPES = {"F64": "<f8", "F32": "<f4", "U32": "<u4", "F16": "<f2", "I8": "|i1"}
"""Allowed types, in the order of safetensors, so that every array is aligned."""
_METADATA = "__metadata__"
_LENGTH = 8
"""Bytes at the start of a blob with the length of its header."""
_LONGEST_HEADER = 2**24


def pack(arrays: Arrays) -> bytes:
    """Write named arrays into one blob, with one copy of their values.

    Parameters
    ----------
    arrays : mapping of str to ndarray
        float64, float32, uint32, float16 or int8.
    """
    kinds = {np.dtype(code): (rank, kind) for rank, (kind, code) in enumerate(_TYPES.items())}
    plain = {name: np.asarray(array, order="C") for name, array in arrays.items()}
    order = sorted(plain, key=lambda name: (kinds[plain[name].dtype][0], name))
    header: dict[str, Any] = {}
    end = 0
    for name in order:
        array, start = plain[name], end
        end += array.nbytes
        kind = kinds[array.dtype][1]
        header[name] = {"dtype": kind, "shape": array.shape, "data_offsets": (start, end)}
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % _LENGTH)
    values = (plain[name].reshape(-1).view(np.uint8).data for name in order if plain[name].size)
    return b"".join((len(text).to_bytes(_LENGTH, "little"), text, *values))


def unpack(blob: bytes) -> dict[str, NDArray[Any]]:
    """Return the arrays of a blob, as read-only views of its bytes.

    Raises
    ------
    ValueError
        The bytes are not a blob, or its arrays are not contiguous.
    """
    place, header = _read_header(blob)
    first = place
    arrays: dict[str, NDArray[Any]] = {}
    for name, (kind, shape, start, end) in sorted(_entries(header), key=lambda entry: entry[1][2:]):
        if kind not in _TYPES:
            raise ValueError(f"an array has the type {kind[:16]}")
        dtype, size = np.dtype(_TYPES[kind]), math.prod(shape)
        place += size * dtype.itemsize
        if (first + start, first + end) != (place - size * dtype.itemsize, place):
            raise ValueError("the arrays are not at the offsets of the header")
        if place > len(blob):
            raise ValueError("the blob ends before its arrays")
        flat = np.frombuffer(blob, dtype, size, first + start) if size else np.empty(0, dtype)
        arrays[name] = flat.reshape(shape)
    if place != len(blob):
        raise ValueError("the blob has bytes after its arrays")
    return arrays


def describe(blob: bytes) -> dict[str, tuple[str, tuple[int, ...], int]]:
    """Return type, shape and bytes of each array by name. Only the header is read.

    Raises
    ------
    ValueError
        The bytes are not a blob.
    """
    return {
        name: (kind, shape, end - start)
        for name, (kind, shape, start, end) in _entries(_read_header(blob)[1])
    }


def fingerprint(arrays: Arrays) -> str:
    """Return the SHA-256 of names, dtypes, shapes and values."""
    digest = hashlib.sha256()
    for name, array in sorted(arrays.items()):
        digest.update(f"{name} {array.dtype} {array.shape}".encode())
        digest.update(np.asarray(array, order="C").data)
    return digest.hexdigest()


def _read_header(blob: bytes) -> tuple[int, dict[str, Any]]:
    """Return the offset of the first array, and the header."""
    length = int.from_bytes(blob[:_LENGTH], "little")
    start = _LENGTH + length
    if not 0 < length <= _LONGEST_HEADER or start > len(blob):
        raise ValueError("not a safetensors blob")
    try:
        header = json.loads(blob[_LENGTH:start])
    except RecursionError as error:
        raise ValueError("not a safetensors header") from error
    if not isinstance(header, dict):
        raise ValueError("not a safetensors header")
    return start, header


def _entries(header: Mapping[str, Any]) -> Iterator[tuple[str, _Entry]]:
    """Yield the name, type, shape, start and end of each array."""
    for name, entry in header.items():
        if name == _METADATA:
            continue
        try:
            kind, shape, (start, end) = entry["dtype"], entry["shape"], entry["data_offsets"]
            numbers = (*shape, start, end)
        except (TypeError, KeyError, ValueError) as error:
            raise ValueError("not a safetensors header") from error
        if not isinstance(kind, str) or not all(isinstance(n, int) and n >= 0 for n in numbers):
            raise ValueError("not a safetensors header")
        yield name, (kind, tuple(shape), start, end)
