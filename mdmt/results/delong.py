"""Comparing the AUROC of two models over patients (DeLong)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mdmt.tasks.base import FloatArray

__all__ = ["AurocComparison", "compare_aurocs"]

_Z_95 = 1.959963984540054
"""97.5 % quantile of the normal distribution."""


@dataclass(frozen=True)
class AurocComparison:
    """AUROC of two models on the same images; the difference is a - b.

    `low`, `high`, `z` and `p` are None where the variance cannot be estimated.
    """

    auroc_a: float
    auroc_b: float
    difference: float
    error: float | None
    low: float | None
    high: float | None
    """95 % interval of the difference."""
    z: float | None
    p: float | None
    """Two-sided."""


def compare_aurocs(
    positive: NDArray[np.bool_],
    a: FloatArray,
    b: FloatArray,
    patients: NDArray[np.str_] | None = None,
    strata: NDArray[np.str_] | None = None,
) -> AurocComparison | None:
    """Compare two correlated AUROCs (DeLong et al. 1988), images clustered by patient.

    Variances are Obuchowski's (1997) for clustered data, which are DeLong's where every patient
    has one image. With strata an AUROC is the mean of those of the strata, weighted by their pairs
    of a positive and a negative, and a patient is one cluster in all of them.

    Parameters
    ----------
    positive : ndarray, bool, (N,)
    a, b : ndarray, float, (N,)
        Scores of the same images by two models; higher means more likely positive.
    patients : ndarray of str, (N,), optional
        Without it every image is a patient's only one.
    strata : ndarray of str, (N,), optional
        Such as the fold whose model gave the scores: only images of one stratum are compared.

    Returns
    -------
    AurocComparison or None
        None unless both classes are present, with strata in one of them.
    """
    from scipy.stats import norm

    _, cluster = np.unique(
        np.arange(len(positive)) if patients is None else patients, return_inverse=True
    )
    every = np.zeros(len(positive)) if strata is None else strata
    within = [every == stratum for stratum in np.unique(every)]
    pairs = [float(positive[s].sum() * (~positive[s]).sum()) for s in within]
    if not any(pairs):
        return None
    auroc_a, auroc_b, parts = 0.0, 0.0, []
    for chosen, number in zip(within, pairs, strict=True):
        if number == 0:
            continue
        share = number / sum(pairs)
        positive_a, negative_a = _components(positive[chosen], a[chosen])
        positive_b, negative_b = _components(positive[chosen], b[chosen])
        auroc_a += share * float(positive_a.mean())
        auroc_b += share * float(positive_b.mean())
        of = positive_a - positive_b, negative_a - negative_b
        part = _cluster_sums(positive[chosen], *of, cluster[chosen], len(positive))
        parts.append((share, part))
    variance = _variance(parts)
    difference = auroc_a - auroc_b
    if variance is None or variance <= 1e-15:
        return AurocComparison(auroc_a, auroc_b, difference, None, None, None, None, None)
    error = math.sqrt(variance)
    z = difference / error
    return AurocComparison(
        auroc_a,
        auroc_b,
        difference,
        error,
        difference - _Z_95 * error,
        difference + _Z_95 * error,
        z,
        float(2 * norm.sf(abs(z))),
    )


def _components(
    positive: NDArray[np.bool_], scores: FloatArray
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Structural components of an AUROC by midranks (Sun & Xu 2014).

    For each positive the share of negatives it outscores, for each negative the share of positives
    that outscore it; ties count one half.
    """
    from scipy.stats import rankdata

    together = rankdata(scores)
    n_positive = int(positive.sum())
    n_negative = len(positive) - n_positive
    of_positive = (together[positive] - rankdata(scores[positive])) / n_negative
    of_negative = 1 - (together[~positive] - rankdata(scores[~positive])) / n_positive
    return of_positive, of_negative


@dataclass(frozen=True)
class _Part:
    """What clusters add to an AUROC difference within one stratum, by positives and by negatives.

    `sums` (2, n_clusters) are of (component - mean) / number of positives, or negatives; `having`
    counts the clusters that have a positive, a negative, and any image.
    """

    sums: NDArray[np.float64]
    having: tuple[int, int, int]


def _cluster_sums(
    positive: NDArray[np.bool_],
    of_positive: NDArray[np.float64],
    of_negative: NDArray[np.float64],
    cluster: NDArray[np.intp],
    n_clusters: int,
) -> _Part:
    mean = of_positive.mean()
    sums = [
        np.bincount(cluster[chosen], (values - mean) / len(values), n_clusters)
        for chosen, values in ((positive, of_positive), (~positive, of_negative))
    ]
    a, b, c = (len(np.unique(cluster[rows])) for rows in (positive, ~positive, slice(None)))
    return _Part(np.stack(sums), (a, b, c))


def _variance(parts: Sequence[tuple[float, _Part]]) -> float | None:
    """Variance of an AUROC difference (Obuchowski 1997) summed over strata with weights.

    Every stratum has a mean of its own, so that I clusters in S strata leave I - S degrees of
    freedom: the factor I / (I - S) is the formula's I / (I - 1) for one stratum. None where no
    degree of freedom is left.
    """
    x, y = np.sum([share * part.sums for share, part in parts], axis=0)
    having = np.sum([part.having for _, part in parts], axis=0)
    if (having <= len(parts)).any():
        return None
    of_x, of_y, of_both = having / (having - len(parts))
    return float(of_x * (x**2).sum() + of_y * (y**2).sum() + 2 * of_both * (x * y).sum())
