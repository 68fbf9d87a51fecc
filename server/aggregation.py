"""Which updates may be averaged, and their weighted mean."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

import numpy as np
from numpy.typing import NDArray

from mdmt.wire import Arrays

__all__ = ["refusal", "weighted_mean"]

_IMPLAUSIBLE = 1e6
"""How many times the largest value sent (or 1) may come back."""


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
        if peak > (limit := _IMPLAUSIBLE * max(1.0, float(np.abs(sent).max(initial=0)))):
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
            if name not in totals:
                totals[name] = start(name) if start else np.zeros(array.shape)
                dtypes[name] = array.dtype
            w = weight if isinstance(weight, float) else weight[name]
            totals[name] += np.multiply(array, w, dtype=np.float64)
    return {name: total.astype(dtypes[name], copy=False) for name, total in totals.items()}
