"""Which updates may be averaged, and their weighted mean."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

__all__ = ["Arrays", "refusal", "weighted_mean"]

Arrays = Mapping[str, NDArray[np.floating]]


def refusal(received: Arrays, expected: Arrays) -> str | None:
    """Say why an update cannot be averaged with what was sent, or None.

    Names, shapes and dtypes must be those of `expected`, and every value finite.
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
        # A sum is finite only if all its terms are, and needs no array of flags.
        with np.errstate(invalid="ignore"):
            finite = np.isfinite(array.sum(dtype=np.float64))
        if not finite:
            return f"array {name} is not finite"
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
