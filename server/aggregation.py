"""Which updates may be averaged, and their weighted mean."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

import numpy as np
from numpy.typing import NDArray

from mdmt.wire import Arrays

__all__ = ["refusal", "weighted_mean"]

_IMPLAUSIBLE = 1e6
"""How many times the largest value sent (or 1) may come back."""
_PIECE = 2**15
"""Numbers that are added at once."""


def refusal(received: Arrays, expected: Arrays) -> str | None:
    """Say why an update cannot be averaged with what was sent, or None.

    Names, shapes and dtypes must be those of `expected`, every value finite and not absurdly large.
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
        # Extremes tell NaN and infinity too, and need no array of flags.
        peak = max(abs(float(array.max(initial=0))), abs(float(array.min(initial=0))))
        if not np.isfinite(peak):
            return f"array {name} is not finite"
        limit = _IMPLAUSIBLE
        if peak > limit:  # hardly ever: only then are the values sent looked at
            limit *= max(1.0, float(np.abs(sent).max(initial=0)))
        if peak > limit:
            return f"array {name} holds {peak:.1e}, which is beyond {limit:.0e}: no weight is"
    return None


def weighted_mean(
    updates: Iterable[Arrays],
    weights: Iterable[float | Mapping[str, float]],
    start: Callable[[str], NDArray[np.float64]] | None = None,
) -> dict[str, NDArray[np.floating]]:
    """Σ_s w_s θ_s, accumulated in place and in float64 in the order given; the updates' dtypes.

    Parameters
    ----------
    updates : iterable of mapping of str to ndarray
        Taken one at a time: each may be forgotten before the next is made.
    weights : iterable of float or of mapping of str to float
        w_s, or one for each array of the update; those of an array sum to 1.
    start : callable, optional
        Gives an array to begin the sum of that name with, instead of zeros; it is used up.
    """
    totals: dict[str, NDArray[np.float64]] = {}
    dtypes: dict[str, np.dtype[np.floating]] = {}
    for update, weight in zip(updates, weights, strict=True):
        for name, array in update.items():
            w = weight if isinstance(weight, float) else weight[name]
            if name not in totals:
                dtypes[name] = array.dtype
                if start is None:
                    whole = np.empty(array.shape)  # else a product without axes is no array
                    totals[name] = np.multiply(array, w, out=whole, dtype=np.float64)
                    continue
                totals[name] = np.asarray(start(name), order="C")
            _add(totals[name], array, w)
    return {name: total.astype(dtypes[name], copy=False) for name, total in totals.items()}


def _add(total: NDArray[np.float64], array: NDArray[np.floating], weight: float) -> None:
    """Add w·θ in place, in pieces whose products stay in the processor's cache."""
    flat, values = total.reshape(-1), array.reshape(-1)
    for start in range(0, flat.size, _PIECE):
        piece = slice(start, start + _PIECE)
        flat[piece] += np.multiply(values[piece], weight, dtype=np.float64)
