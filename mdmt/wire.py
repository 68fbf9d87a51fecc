"""Arrays as they travel: all of a message in one safetensors blob, which describes itself.

Flower moves every array of a message by requests of its own; a backbone has hundreds.
Reading a blob copies nothing; a compressed one is never inflated beyond a limit. What may be in it
beside exact arrays is in `mdmt.deltas`.
"""

from __future__ import annotations

import hashlib
import json
import math
import zlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mdmt.config import Encoding

__all__ = [
    "BLOB",
    "UNKNOWN_BASE",
    "Arrays",
    "compress",
    "describe",
    "facts_of",
    "fingerprint",
    "inflate",
    "most_bytes",
    "pack",
    "unpack",
]

Arrays = Mapping[str, NDArray[Any]]

_Entry = tuple[str, tuple[int, ...], int, int]

BLOB = "safetensors"
"""Name and kind of the one array of a message."""
UNKNOWN_BASE = 100
"""Code of the error with which a site says that it does not have what a delta builds on."""
_TYPES = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "I8": "|i1"}
"""What a blob may hold, in safetensors' own order: each begins where its kind is aligned."""
_FACTS = "__metadata__"
_LENGTH = 8
"""Bytes in which a blob tells how long its header is."""
_LONGEST_HEADER = 2**24
_COMPRESSED = b"mdmt-zip"
"""First bytes of a compressed blob; as a length they are beyond any header."""
_WORTH = 0.97
"""Compressed blobs are sent if they are smaller than this much of the plain one."""
_SLACK = 4096
"""Bytes an array may take beyond its values: its name, shape and place."""


def pack(arrays: Arrays, **facts: str) -> bytes:
    """Turn named arrays into one blob, with a single copy of their values.

    Parameters
    ----------
    arrays : mapping of str to ndarray
        float64, float32, float16 or int8.
    **facts
        Told in the blob's header.
    """
    kinds = {np.dtype(code): (rank, kind) for rank, (kind, code) in enumerate(_TYPES.items())}
    plain = {name: np.asarray(array, order="C") for name, array in arrays.items()}
    order = sorted(plain, key=lambda name: (kinds[plain[name].dtype][0], name))
    header: dict[str, Any] = {_FACTS: facts} if facts else {}
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
    """Read a blob's arrays: views on its bytes, which cannot be written to.

    Raises
    ------
    ValueError
        It is not a blob, or its arrays are not one after the other.
    """
    place, header = _read_header(blob)
    first = place
    arrays: dict[str, NDArray[Any]] = {}
    for name, (kind, shape, start, end) in sorted(_entries(header), key=lambda entry: entry[1][2:]):
        if kind not in _TYPES:
            raise ValueError(f"an array of the kind {kind[:16]}")
        dtype, size = np.dtype(_TYPES[kind]), math.prod(shape)
        place += size * dtype.itemsize
        if (first + start, first + end) != (place - size * dtype.itemsize, place):
            raise ValueError("the arrays are not where the header says")
        if place > len(blob):
            raise ValueError("the blob ends before its arrays")
        flat = np.frombuffer(blob, dtype, size, first + start) if size else np.empty(0, dtype)
        arrays[name] = flat.reshape(shape)
    if place != len(blob):
        raise ValueError("something stands after the arrays")
    return arrays


def facts_of(blob: bytes) -> dict[str, str]:
    """What `pack` was told beside the arrays; a ValueError if it is not a blob, as below."""
    facts = _read_header(_head(blob))[1].get(_FACTS, {})
    if not isinstance(facts, dict) or not all(isinstance(v, str) for v in facts.values()):
        raise ValueError("not a safetensors header")
    return facts


def describe(blob: bytes) -> dict[str, tuple[str, tuple[int, ...], int]]:
    """Name → dtype, shape and bytes (before compression) of a blob's arrays, from its header alone.

    Raises
    ------
    ValueError
        It is not a blob.
    """
    return {
        name: (kind, shape, end - start)
        for name, (kind, shape, start, end) in _entries(_read_header(_head(blob))[1])
    }


def compress(blob: bytes, encoding: Encoding) -> bytes:
    """Compress a blob of encoded arrays without loss, unless that hardly makes it smaller.

    Deltas repeat nothing, but small values are more frequent than large ones: Huffman codes alone
    do what deflate's search for repetitions would add nothing to. Of float16 all first bytes go
    before all second ones, which hold the exponents.
    """
    width = 2 if encoding == "float16" else 1
    start, _ = _read_header(blob)
    body = np.frombuffer(blob, np.uint8, offset=start)
    even = len(body) - len(body) % width
    machine = zlib.compressobj(1, strategy=zlib.Z_HUFFMAN_ONLY)
    parts = [_COMPRESSED + bytes([width]), machine.compress(memoryview(blob)[:start])]
    for plane in body[:even].reshape(-1, width).T:
        parts.append(machine.compress(np.ascontiguousarray(plane).data))
    parts += [machine.compress(body[even:].data), machine.flush()]
    small = b"".join(parts)
    return small if len(small) < _WORTH * len(blob) else blob


def inflate(blob: bytes, limit: int) -> bytes:
    """Undo `compress`, if it was done, but never make more than `limit` bytes.

    Raises
    ------
    ValueError
        It would be larger, or the blob is damaged.
    """
    if not blob.startswith(_COMPRESSED):
        if len(blob) > limit:
            raise ValueError(f"{len(blob)} bytes, at most {limit} are expected")
        return blob
    packed = memoryview(blob)[len(_COMPRESSED) :]
    width = int.from_bytes(packed[:1], "little")
    machine = zlib.decompressobj()
    with _damage_is_a_value_error():
        plain = machine.decompress(packed[1:], limit + 1)
    if len(plain) > limit:
        raise ValueError(f"more than the {limit} bytes that are expected")
    if not machine.eof or machine.unused_data or width not in (1, 2):
        raise ValueError("a damaged compressed blob")
    if width == 1:
        return plain
    start, _ = _read_header(plain)
    body = np.frombuffer(plain, np.uint8, offset=start)
    even = len(body) - len(body) % width
    pairs = np.ascontiguousarray(body[:even].reshape(width, -1).T)
    return b"".join((memoryview(plain)[:start], pairs.data, body[even:].data))


def most_bytes(sizes: Iterable[int]) -> int:
    """How large a blob of arrays with so many bytes can be, however they are encoded."""
    return sum(size + 2 * _SLACK for size in sizes) + _SLACK


def fingerprint(arrays: Arrays) -> str:
    """SHA-256 of names, dtypes, shapes and values."""
    digest = hashlib.sha256()
    for name, array in sorted(arrays.items()):
        digest.update(f"{name} {array.dtype} {array.shape}".encode())
        digest.update(np.asarray(array, order="C").data)
    return digest.hexdigest()


def _head(blob: bytes) -> bytes:
    """A blob as far as its header, inflated if need be."""
    if not blob.startswith(_COMPRESSED):
        return blob
    machine, packed = zlib.decompressobj(), memoryview(blob)[len(_COMPRESSED) + 1 :]
    with _damage_is_a_value_error():
        head = machine.decompress(packed, _LENGTH)
        length = int.from_bytes(head, "little")
        if 0 < length <= _LONGEST_HEADER:
            head += machine.decompress(machine.unconsumed_tail, length)
    return head


def _read_header(blob: bytes) -> tuple[int, dict[str, Any]]:
    """Where the arrays begin, and what is said of them."""
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
    """Yield each array's name with its kind, shape, and where it starts and ends."""
    for name, entry in header.items():
        if name == _FACTS:
            continue
        try:
            kind, shape, (start, end) = entry["dtype"], entry["shape"], entry["data_offsets"]
            numbers = (*shape, start, end)
        except (TypeError, KeyError, ValueError) as error:
            raise ValueError("not a safetensors header") from error
        if not isinstance(kind, str) or not all(isinstance(n, int) and n >= 0 for n in numbers):
            raise ValueError("not a safetensors header")
        yield name, (kind, tuple(shape), start, end)


@contextmanager
def _damage_is_a_value_error() -> Iterator[None]:
    try:
        yield
    except zlib.error as error:
        raise ValueError("a damaged compressed blob") from error
