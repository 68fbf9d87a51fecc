"""Which updates may be averaged, and their weighted mean."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

__all__ = ["Arrays", "refusal", "weighted_mean"]

Arrays = Mapping[str, NDArray[np.floating]]
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
    updates: Sequence[Arrays], weights: Sequence[float]
) -> dict[str, NDArray[np.floating]]:
    """Σ_s w_s θ_s, accumulated in float64 in the order given, in the dtype of the updates.

    Parameters
    ----------
    updates : sequence of mapping of str to ndarray
        All with the same names, shapes and dtypes.
    weights : sequence of float
        Summing to 1.
    """
    mean: dict[str, NDArray[np.floating]] = {}
    for name, first in updates[0].items():
        total = np.zeros(first.shape, np.float64)
        for update, weight in zip(updates, weights, strict=True):
            total += weight * update[name].astype(np.float64, copy=False)
        mean[name] = total.astype(first.dtype)
    return mean
