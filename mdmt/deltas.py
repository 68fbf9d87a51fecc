"""Lossy encodings: arrays as deltas to values that both sides have, and what is lost of them.

A large float32 array becomes numbers of one or two bytes, and a scale for each row of its first
axis, which is a channel. Small arrays (biases, normalisation layers and their statistics) stay as
they are.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from mdmt.config import Encoding
from mdmt.wire import Arrays

__all__ = ["decode", "encode"]

_LEVELS = {"float16": (np.float16, 2.0**15), "int8": (np.int8, 127.0)}
"""Encoding → how a number is written, and what the largest of its row becomes."""
_SCALE = ":scale"
_SMALL, _SHORT = 1024, 8
"""Arrays with fewer numbers, or fewer in a row, are not worth a loss."""
_TINY = float(np.finfo(np.float32).tiny)
_PEAK = 1e38
"""No delta goes beyond: the products of its scale would not be finite."""


def encode(
    arrays: Arrays, base: Arrays, encoding: Encoding, carried: Arrays | None = None
) -> tuple[dict[str, NDArray[Any]], dict[str, NDArray[np.float32]]]:
    """Write arrays as deltas to `base`.

    Parameters
    ----------
    arrays, base : mapping of str to ndarray
        `base` has them all, with the same shapes.
    encoding : {"float32", "float16", "int8"}
        float32 leaves them as they are.
    carried : mapping of str to ndarray, optional
        What earlier deltas lost, to be added to this one.

    Returns
    -------
    dict of str to ndarray
        What travels, for `pack`: an array as it is; or its delta, and ``<name>:scale``, float32
        with a value per row, by which to multiply.
    dict of str to ndarray
        What the deltas lost: for each, at most half a scale in int8.
    """
    travels: dict[str, NDArray[Any]] = {}
    lost: dict[str, NDArray[np.float32]] = {}
    for name, array in arrays.items():
        quantised = None
        if encoding != "float32" and _worth_a_loss(array):
            with np.errstate(over="ignore", invalid="ignore"):
                delta = array - base[name]
                if carried and name in carried:
                    delta += carried[name]
            quantised = _quantise(delta, encoding)
        if quantised is None:
            travels[name] = array
            continue
        travels[name], travels[name + _SCALE] = quantised
        lost[name] = np.subtract(delta, _values(*quantised), out=delta)
    return travels, lost


def decode(travels: Arrays, base: Arrays, encoding: Encoding) -> dict[str, NDArray[Any]]:
    """Add deltas to what they were taken from; other arrays stay as they are.

    The same bits come out on every machine: each number is rounded after each single operation.

    Raises
    ------
    ValueError
        A delta has no base, no scale, or scales that no `encode` makes.
    """
    if encoding == "float32":
        return dict(travels)
    kind, largest = _LEVELS[encoding]
    arrays: dict[str, NDArray[Any]] = {}
    for name, array in travels.items():
        if name.endswith(_SCALE) and name.removesuffix(_SCALE) in travels:
            continue
        if array.dtype != kind:
            arrays[name] = array
            continue
        scale, start = travels.get(name + _SCALE), base.get(name)
        if start is None or start.shape != array.shape or not array.ndim:
            raise ValueError(f"array {name[:80]} is a delta to nothing")
        if scale is None or scale.dtype != np.float32 or scale.shape != array.shape[:1]:
            raise ValueError(f"array {name[:80]} has no scale for each row")
        if not np.all((scale >= _TINY) & (scale <= 2 * _PEAK / largest)):
            raise ValueError(f"array {name[:80]} has a scale that is none")
        with np.errstate(over="ignore", invalid="ignore"):
            arrays[name] = np.add(values := _values(array, scale), start, out=values)
    return arrays


def _worth_a_loss(array: NDArray[Any]) -> bool:
    rows = len(array) if array.ndim > 1 else array.size
    return bool(array.dtype == np.float32 and array.size >= max(_SMALL, _SHORT * rows))


def _quantise(
    delta: NDArray[np.float32], encoding: Encoding
) -> tuple[NDArray[Any], NDArray[np.float32]] | None:
    """Small numbers and the scale of each row; None where there is no sensible scale."""
    dtype, largest = _LEVELS[encoding]
    rows = delta.reshape(len(delta), -1)
    peak = np.maximum(rows.max(axis=1), -rows.min(axis=1))
    if not np.all(peak <= _PEAK):  # nor is NaN
        return None
    scale = np.maximum(peak / np.float32(largest), np.float32(_TINY))  # a row of zeros needs one
    numbers = rows / scale[:, None]
    if encoding == "int8":
        np.rint(numbers, out=numbers)
    return numbers.astype(dtype).reshape(delta.shape), scale


def _values(numbers: NDArray[Any], scale: NDArray[np.float32]) -> NDArray[np.float32]:
    values = numbers.astype(np.float32)
    rows = values.reshape(len(values), -1)
    rows *= scale[:, None]
    return values
