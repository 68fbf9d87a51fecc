"""Arithmetic on single updates, for algorithms that need them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from mdmt.algorithms.base import Weights
from mdmt.blob import Arrays

Matrix = NDArray[np.float64]
_PIECE = 2**17
"""Numbers of all sites in one step of the Gram matrix: they stay in the processor's cache."""


def gram_matrix(starts: Sequence[Arrays], ends: Sequence[Arrays], names: Iterable[str]) -> Matrix:
    """Return ⟨Δ_s, Δ_t⟩ with Δ_s = θ_s - start_s over the named arrays.

    Parameters
    ----------
    starts, ends : sequence of (mapping of str to ndarray)
        Arrays that each site got, and those that it sent back.
    names : iterable of str

    Returns
    -------
    ndarray, float64, (S, S)
    """
    gram = np.zeros((len(ends), len(ends)))
    step = max(1, _PIECE // max(1, len(ends)))
    for name in names:
        before = [arrays[name].reshape(-1) for arrays in starts]
        after = [arrays[name].reshape(-1) for arrays in ends]
        for start in range(0, after[0].size, step):
            piece = slice(start, start + step)
            rows = np.stack([a[piece] for a in after]).astype(np.float64)
            rows -= np.stack([b[piece] for b in before])
            gram += rows @ rows.T
    return gram


def linear_combination(
    arrays: Sequence[NDArray[np.floating]], factors: Iterable[float]
) -> NDArray[np.float64]:
    """Return Σ_s f_s θ_s of one array of each site, in float64, added in the given order."""
    total = np.zeros(arrays[0].shape)
    for array, factor in zip(arrays, factors, strict=True):
        total += np.multiply(array, factor, dtype=np.float64)
    return total


def weighted_means(
    names: Iterable[str], updates: Mapping[str, Arrays], weights: Weights
) -> dict[str, NDArray[np.floating]]:
    """Return Σ_s w_s θ_s of the named arrays, in the dtype of the updates.

    An array without a weight of any site is absent.
    """
    means = {}
    for name in names:
        sites = [site for site in sorted(updates) if name in weights[site]]
        if sites:
            own = [updates[site][name] for site in sites]
            total = linear_combination(own, [weights[site][name] for site in sites])
            means[name] = total.astype(own[0].dtype)
    return means
