"""Comparing models: over patients (DeLong, bootstrap) or over cells of a study, never both at once.

A *cell* is one training run (a fold and a seed). Tests over cells say how stable a difference is
when training is repeated; tests over patients say how far it would hold in other patients like
these. They answer different questions and are never mixed.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mdmt.tasks.base import FloatArray

__all__ = [
    "AurocComparison",
    "PairedComparison",
    "compare_aurocs",
    "compare_pairs",
    "holm",
    "mean_and_error",
]

_Z_95 = 1.959963984540054
"""97.5 % quantile of the normal distribution."""


def mean_and_error(values: Sequence[float]) -> tuple[float, float | None]:
    """Mean and its standard error s/√n; no error from a single value.

    Examples
    --------
    >>> mean_and_error([1.0, 2.0, 3.0])
    (2.0, 0.5773502691896258)
    """
    mean = float(np.mean(values))
    if len(values) < 2:
        return mean, None
    return mean, float(np.std(values, ddof=1) / math.sqrt(len(values)))


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """Adjust p-values for testing all of them (Holm 1979); None stays None and is not counted.

    Examples
    --------
    >>> holm([0.01, 0.04, 0.03, None])
    [0.03, 0.06, 0.06, None]
    """
    tested = sorted((p, index) for index, p in enumerate(p_values) if p is not None)
    adjusted: list[float | None] = [None] * len(p_values)
    largest = 0.0
    for rank, (p, index) in enumerate(tested):
        largest = max(largest, min(1.0, (len(tested) - rank) * p))
        adjusted[index] = largest
    return adjusted


@dataclass(frozen=True)
class PairedComparison:
    """Model a against model b over n matched cells; the difference is a - b.

    None where a number is undefined: one pair, or differences that do not vary.
    """

    n: int
    difference: float
    error: float | None
    """Standard error of the mean difference."""
    t: float | None
    p_t: float | None
    """Two-sided, of the paired t test."""
    w: float | None
    """The smaller of the two rank sums."""
    p_w: float | None
    """Two-sided, of Wilcoxon's signed-rank test; exact for few pairs without ties."""
    d_z: float | None
    """Cohen's d_z: mean over standard deviation of the differences."""
    rank_biserial: float | None
    """(R₊ - R₋) / (R₊ + R₋) of the signed ranks, in [-1, 1] (Kerby 2014)."""


def compare_pairs(a: Sequence[float], b: Sequence[float]) -> PairedComparison:
    """Compare matched values with the paired t test and Wilcoxon's signed-rank test.

    Parameters
    ----------
    a, b : sequence of float, length n
        Values of the same cells, in the same order.

    Raises
    ------
    ValueError
        Not as many of one as of the other, or none.
    """
    from scipy.stats import rankdata, ttest_rel, wilcoxon

    if len(a) != len(b) or not len(a):
        raise ValueError(f"expected pairs, not {len(a)} and {len(b)} values")
    first, second = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    differences = first - second
    mean, error = mean_and_error(differences.tolist())
    t = p_t = d_z = w = p_w = rank_biserial = None
    # Differences that are equal but for rounding have no spread to measure anything by.
    spread = float(np.std(differences, ddof=1)) if len(differences) > 1 else 0.0
    if spread > 1e-12 * np.abs(differences).max():
        test = ttest_rel(first, second)
        t, p_t, d_z = float(test.statistic), float(test.pvalue), mean / spread
    nonzero = differences[differences != 0]
    if len(nonzero) and len(differences) > 1:
        signed = wilcoxon(nonzero)
        w, p_w = float(signed.statistic), float(signed.pvalue)
        ranks = rankdata(np.abs(nonzero))
        rank_biserial = float((np.sign(nonzero) * ranks).sum() / ranks.sum())
    return PairedComparison(len(first), mean, error, t, p_t, w, p_w, d_z, rank_biserial)


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
        sums = _cluster_sums(positive[chosen], *of, cluster[chosen], len(positive))
        parts.append(None if sums is None else share * sums)
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


def _cluster_sums(
    positive: NDArray[np.bool_],
    of_positive: NDArray[np.float64],
    of_negative: NDArray[np.float64],
    cluster: NDArray[np.intp],
    n_clusters: int,
) -> NDArray[np.float64] | None:
    """What each cluster adds to an AUROC difference within one stratum, (4, n_clusters).

    The sums of (component - mean) / number of its positives and its negatives, each with the
    factor √(I / (I - 1)) that its square has in Obuchowski (1997), equation 4, and again both with
    that of their product. None unless two clusters have positives and two have negatives.
    """
    mean = of_positive.mean()
    rows = []
    for chosen, values in ((positive, of_positive), (~positive, of_negative)):
        if (having := len(np.unique(cluster[chosen]))) < 2:
            return None
        sums = np.bincount(cluster[chosen], (values - mean) / len(values), n_clusters)
        rows.append((sums, having))
    together = len(np.unique(cluster))
    (x, with_positive), (y, with_negative) = rows
    factors = [math.sqrt(n / (n - 1)) for n in (with_positive, with_negative, together, together)]
    return np.stack([factor * s for factor, s in zip(factors, (x, y, x, y), strict=True)])


def _variance(parts: Sequence[NDArray[np.float64] | None]) -> float | None:
    """Variance of a sum over strata of `_cluster_sums`; None where one has none."""
    defined = [part for part in parts if part is not None]
    if len(defined) < len(parts):
        return None
    x, y, x_both, y_both = np.sum(defined, axis=0)
    return float((x**2).sum() + (y**2).sum() + 2 * (x_both * y_both).sum())
