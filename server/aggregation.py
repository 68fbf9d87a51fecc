"""Check updates, and compute their weighted mean."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
from numpy.typing import NDArray

from mdmt.blob import Arrays

_IMPLAUSIBLE = 1e6
"""Largest allowed ratio of a value to the largest sent value (or to 1)."""
_PIECE = 2**15
"""Numbers that are added in one step."""


def refusal(received: Arrays, expected: Arrays) -> str | None:
    """Return the reason why an update cannot be combined, or None.

    Names, shapes and dtypes must be those of `expected`. All values must be finite and not too
    large.
    """
    if missing := sorted(set(expected) - set(received)):
        return f"array {missing[0]} is missing"
    if extra := sorted(set(received) - set(expected)):
        return f"array {extra[0][:80]} was not asked for"
    for name, sent in expected.items():
        array = received[name]
        if array.shape != sent.shape or array.dtype != sent.dtype:
            return (
                f"array {name} is {array.dtype} {list(array.shape)},"
                f" not {sent.dtype} {list(sent.shape)}"
            )
        # The minimum and maximum also show NaN and infinity, without an array of flags.
        peak = max(abs(float(array.max(initial=0))), abs(float(array.min(initial=0))))
        if not np.isfinite(peak):
            return f"array {name} is not finite"
        limit = _IMPLAUSIBLE
        if peak > limit:  # rare: read the sent values only in this case
            limit *= max(1.0, float(np.abs(sent).max(initial=0)))
        if peak > limit:
            return f"array {name} holds {peak:.1e}, above the limit of {limit:.0e} for a weight"
    return None


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
