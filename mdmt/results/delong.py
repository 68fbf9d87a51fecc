"""Comparing the AUROC of two models over patients (DeLong)."""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mdmt.tasks.base import FloatArray

_Z_95 = 1.959963984540054
"""97.5 % quantile of the normal distribution."""


@dataclass(frozen=True)
class AurocComparison:
    """AUROC of two models on the same images; the difference is a - b.

    `low`, `high`, `z` and `p` are None if the variance cannot be estimated.
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

    images = np.arange(len(positive)) if patients is None else patients
    _, cluster = np.unique(images, return_inverse=True)
    every = np.zeros(len(positive)) if strata is None else strata
    within = [every == stratum for stratum in np.unique(every)]
    pairs = [float(positive[s].sum() * (~positive[s]).sum()) for s in within]
    if not any(pairs):
        return None
    aurocs, sums, having = np.zeros(2), np.zeros((2, len(positive))), np.zeros(3)
    for chosen, number in zip(within, pairs, strict=True):
        if number == 0:
            continue
        share, truth, patient = number / sum(pairs), positive[chosen], cluster[chosen]
        of_a, of_b = (_components(truth, scores[chosen]) for scores in (a, b))
        aurocs += share * np.array([of_a[0].mean(), of_b[0].mean()])
        differences = [x - y for x, y in zip(of_a, of_b, strict=True)]
        for row, (rows, values) in enumerate(zip((truth, ~truth), differences, strict=True)):
            deviations = (values - differences[0].mean()) / len(values)
            sums[row] += share * np.bincount(patient[rows], deviations, len(positive))
        having += [len(np.unique(patient[rows])) for rows in (truth, ~truth, slice(None))]
    auroc_a, auroc_b = aurocs.tolist()
    difference = auroc_a - auroc_b
    variance = _variance(sums, having, sum(number > 0 for number in pairs))
    if variance <= 1e-15:
        return AurocComparison(auroc_a, auroc_b, difference, None, None, None, None, None)
    error = math.sqrt(variance)
    z, half = difference / error, _Z_95 * error
    ends = difference - half, difference + half
    p = float(2 * norm.sf(abs(z)))
    return AurocComparison(auroc_a, auroc_b, difference, error, *ends, z, p)


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


def _variance(sums: NDArray[np.float64], having: NDArray[np.float64], strata: int) -> float:
    """Variance of an AUROC difference (Obuchowski 1997), summed over strata with weights.

    Every stratum has its own mean, so that I clusters in S strata leave I - S degrees of freedom:
    the factor I / (I - S) is the formula's I / (I - 1) for one stratum.

    Parameters
    ----------
    sums : ndarray, float, (2, clusters)
        What each cluster adds, by its positives and by its negatives: deviations of the components
        from their mean, over the number of positives or negatives.
    having : ndarray, float, (3,)
        Clusters that have a positive, a negative, and any image, counted in each stratum.
    strata : int

    Returns
    -------
    float
        0 if there is no degree of freedom.
    """
    if (having <= strata).any():
        return 0.0
    of_x, of_y, of_both = having / (having - strata)
    x, y = sums
    return float(of_x * (x**2).sum() + of_y * (y**2).sum() + 2 * of_both * (x * y).sum())
