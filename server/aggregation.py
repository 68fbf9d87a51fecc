"""Check updates, measure how long they are, and compute their weighted mean."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

import numpy as np
from numpy.typing import NDArray

from mdmt.blob import Arrays
from mdmt.errors import Refused
from mdmt.models import head_task

_PIECE = 2**15
"""Numbers that are read in one step, so that they stay in the processor's cache."""
_VARIANCE = ".running_var"
"""End of the names of torch's running variances."""
STATISTICS = "statistics"
"""The group of arrays of the backbone that gradients do not change."""
Norms = dict[str, float]
"""Group of arrays → Euclidean norm: see `group`."""


def group(name: str, optimised: Collection[str]) -> str:
    """Return the group of an array. Updates are compared in each group.

    The groups are the ``backbone`` (what gradients change), its running ``statistics``, which
    change by other amounts, and each shared head, which not all sites have.
    """
    task = head_task(name)
    if task is not None:
        return f"heads.{task}"
    return "backbone" if name in optimised else STATISTICS


def check_update(received: Arrays, expected: Arrays, optimised: Collection[str]) -> Norms:
    """Check an update, and measure how far it is from the sent arrays.

    Parameters
    ----------
    received : mapping of str to ndarray
    expected : mapping of str to ndarray
        The sent arrays that the site must send back.
    optimised : collection of str
        See `State.optimised`.

    Returns
    -------
    dict of str to float
        Norm of the difference in each group of arrays.

    Raises
    ------
    Refused
        Names, shapes and dtypes are not those of `expected`, a value is not finite, or a variance
        is negative.
    """
    if missing := sorted(set(expected) - set(received)):
        raise Refused(f"array {missing[0]} is missing")
    if extra := sorted(set(received) - set(expected)):
        raise Refused(f"array {extra[0][:80]} was not asked for")
    squares: dict[str, float] = {}
    for name, sent in expected.items():
        array = received[name]
        if array.shape != sent.shape or array.dtype != sent.dtype:
            raise Refused(
                f"array {name} is {array.dtype} {list(array.shape)},"
                f" not {sent.dtype} {list(sent.shape)}"
            )
        square = _square_distance(array, sent)
        if not np.isfinite(square):
            raise Refused(f"array {name} is not finite")
        if name.endswith(_VARIANCE) and array.min(initial=0) < 0:
            raise Refused(f"array {name} holds a negative variance")
        key = group(name, optimised)
        squares[key] = squares.get(key, 0.0) + square
    return {key: float(np.sqrt(square)) for key, square in squares.items()}


def _square_distance(array: NDArray[np.floating], other: NDArray[np.floating]) -> float:
    """Return ‖array - other‖², added in float64; not finite if a value is not."""
    flat, sent = array.reshape(-1), other.reshape(-1)
    room, total = np.empty(min(flat.size, _PIECE)), 0.0
    with np.errstate(over="ignore", invalid="ignore"):
        for start in range(0, flat.size, _PIECE):
            piece = flat[start : start + _PIECE]
            difference = room[: piece.size]
            np.subtract(piece, sent[start : start + _PIECE], out=difference)
            total += float(np.square(difference, out=difference).sum())
    return total


def weighted_mean(
    updates: Iterable[tuple[Arrays, Mapping[str, float]]],
) -> dict[str, NDArray[np.floating]]:
    """Return Σ_s w_s θ_s of each array. Sum in place, in float64, in the given order.

    Parameters
    ----------
    updates : iterable of (mapping of str to ndarray, mapping of str to float)
        The arrays of a site and their weights. The weights of an array sum to 1. An array without
        a weight is ignored. One update is read at a time.

    Returns
    -------
    dict of str to ndarray
        In the dtypes of the updates.
    """
    totals: dict[str, NDArray[np.float64]] = {}
    dtypes: dict[str, np.dtype[np.floating]] = {}
    for arrays, weights in updates:
        _accumulate(totals, arrays, weights)
        dtypes |= {name: array.dtype for name, array in arrays.items()}
        del arrays  # the next update is decoded after this one is freed
    return {name: total.astype(dtypes[name], copy=False) for name, total in totals.items()}


def _accumulate(
    totals: dict[str, NDArray[np.float64]], arrays: Arrays, weights: Mapping[str, float]
) -> None:
    """Add the weighted arrays of one update to `totals` in place."""
    for name, array in arrays.items():
        if name not in weights:
            continue
        if name in totals:
            _add(totals[name], array, weights[name])
            continue
        total = np.empty(array.shape)  # np.multiply returns a scalar for an array without axes
        totals[name] = np.multiply(array, weights[name], out=total, dtype=np.float64)


def _add(total: NDArray[np.float64], array: NDArray[np.floating], weight: float) -> None:
    """Add w·θ in place, in pieces that fit into the processor's cache."""
    flat, values = total.reshape(-1), array.reshape(-1)
    for start in range(0, flat.size, _PIECE):
        piece = slice(start, start + _PIECE)
        flat[piece] += np.multiply(values[piece], weight, dtype=np.float64)
