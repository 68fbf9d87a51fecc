"""ROC curves and calibration of predicted probabilities."""

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from mdmt.enough import enough_to_compare
from mdmt.metrics import bootstrap
from mdmt.results.predictions import Predictions

Array = NDArray[np.floating]

_GRID = np.linspace(0.0, 1.0, 101)
_SEED = 0
"""Seed of the bootstrap: every arm gets the same draws, and every report is the same."""


class Roc(NamedTuple):
    """An ROC curve on a grid of false-positive rates, and its area.

    Attributes
    ----------
    false_positive, true_positive, low, high : ndarray, float, (101,)
        Ends of the band are NaN where too few resamples have both classes, and everywhere if there
        are too few patients of a class (`enough_to_compare`).
    area : float
    """

    false_positive: Array
    true_positive: Array
    low: Array
    high: Array
    area: float


def roc_with_band(tested: Predictions, output: int, resamples: int = 200) -> Roc | None:
    """ROC curve of one output, with pointwise 95 % patient-level bootstrap intervals.

    The model of a fold ranks the images of its fold. The curve is the mean of the folds' curves at
    each false-positive rate, weighted by the pairs of a positive and a negative, and its area is
    that mean of the folds' areas.

    Parameters
    ----------
    tested : Predictions
    output : int
        Column of the predictions.
    resamples : int

    Returns
    -------
    Roc or None
        None unless a fold has both classes and all scores are finite.
    """
    truth, scores = tested.truth[:, output], tested.predictions[:, output]
    labelled = np.isfinite(truth)
    truth, scores, folds = truth[labelled], scores[labelled], tested.folds[labelled]
    if not np.isfinite(scores).all():
        return None

    def curve(index: NDArray[np.intp]) -> Array:
        return _mean_curve(truth[index], scores[index], folds[index])

    *found, area = curve(np.arange(len(truth)))
    if not np.isfinite(area):
        return None
    patients = tested.patients[labelled]
    low, high = np.full((2, len(_GRID)), np.nan)
    if enough_to_compare(len(np.unique(patients[truth == value])) for value in (0, 1)):
        low, high = bootstrap(
            lambda index: curve(index)[:-1], patients, seed=_SEED, resamples=resamples
        )
    return Roc(_GRID, np.array(found), low, high, float(area))


def _mean_curve(truth: Array, scores: Array, folds: NDArray[np.str_]) -> Array:
    """True-positive rates on the grid, then the area: the mean over folds; NaN without pairs."""
    total, pairs = np.zeros(len(_GRID) + 1), 0.0
    for fold in np.unique(folds):
        of_fold = truth[folds == fold]
        number = float((of_fold == 1).sum() * (of_fold == 0).sum())
        if number:
            false, true = roc_points(of_fold == 1, scores[folds == fold])
            area = np.trapezoid(true, false)
            total += number * np.append(np.interp(_GRID, false, true), area)
            pairs += number
    return total / pairs if pairs else np.full_like(total, math.nan)


def roc_points(positive: NDArray[np.bool_], scores: Array) -> tuple[Array, Array]:
    """Return the false- and true-positive rates at every threshold, from (0, 0) to (1, 1).

    Equal scores pass a threshold together. Both classes must be present. The figures of a report
    need thousands of curves, for which scikit-learn's `roc_curve` takes most of the time.
    """
    order = np.argsort(-scores)
    last = np.append(np.diff(scores[order]) != 0, True)  # of the images with this score
    true = np.append(0.0, np.cumsum(positive[order])[last])
    false = np.append(0.0, np.cumsum(~positive[order])[last])
    return false / false[-1], true / true[-1]


class Bin(NamedTuple):
    """Images of similar predicted probability: the share that is positive, with its interval."""

    predicted: float
    observed: float
    low: float
    high: float
    images: int


def calibration_bins(positive: NDArray[np.bool_], probabilities: Array) -> list[Bin]:
    """Group (N,) predictions into at most ten quantile bins of about twenty images or more.

    Intervals are Wilson's, at 95 %, for independent images.
    """
    from scipy.stats import binomtest
    from sklearn.calibration import calibration_curve

    number = max(1, min(10, len(positive) // 20))
    observed, predicted = calibration_curve(
        positive, probabilities, n_bins=number, strategy="quantile"
    )
    inner = np.quantile(probabilities, np.linspace(0, 1, number + 1))[1:-1]
    counts = np.unique(np.searchsorted(inner, probabilities), return_counts=True)[1]
    bins = []
    for share, mean, count in zip(observed, predicted, counts.tolist(), strict=True):
        interval = binomtest(round(share * count), count).proportion_ci(method="wilson")
        bins.append(Bin(float(mean), float(share), interval.low, interval.high, count))
    return bins
