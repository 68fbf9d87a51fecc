"""Curves of predicted probabilities, and intervals that draw patients, not images."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mdmt.results.predictions import Predictions

__all__ = ["Bin", "Roc", "calibration_bins", "patient_interval", "roc_with_band"]

Array = NDArray[np.floating]

_LEVELS = (0.025, 0.975)
_GRID = np.linspace(0.0, 1.0, 101)
_SEED = 0
"""The same draws of patients for every arm, the same report every time."""


@dataclass(frozen=True)
class Roc:
    """An ROC curve on a grid of false-positive rates, and its area.

    Attributes
    ----------
    false_positive, true_positive, low, high : ndarray, float, (101,)
        Ends of the band are NaN where too few resamples have both classes.
    area : float
    """

    false_positive: Array
    true_positive: Array
    low: Array
    high: Array
    area: float


def roc_with_band(tested: Predictions, output: int, resamples: int = 1000) -> Roc:
    """ROC curve of one output, with pointwise 95 % patient-level bootstrap intervals.

    A fold's model ranks the images of its fold. The curve is the mean of the folds' curves at each
    false-positive rate, weighted by pairs of a positive and a negative, and its area that mean of
    the folds' areas.

    Parameters
    ----------
    tested : Predictions
        A fold of it has both classes.
    output : int
        Column of the predictions.
    resamples : int
        A patient is drawn with all images.
    """
    truth = tested.truth[:, output]
    labelled = np.isfinite(truth)
    positive = truth[labelled] == 1
    scores, folds = tested.predictions[labelled, output], tested.folds[labelled]
    weights = _draw_patients(tested.patients[labelled], resamples).astype(np.float64)
    sums, pairs = np.zeros((len(weights), len(_GRID) + 1)), np.zeros((len(weights), 1))
    for fold in np.unique(folds):
        chosen = folds == fold
        of_fold = weights[:, chosen]
        found = of_fold @ positive[chosen] * (of_fold @ ~positive[chosen])
        false, true = _weighted_roc(positive[chosen], scores[chosen], of_fold)
        curves = [np.interp(_GRID, *pair) for pair in zip(false, true, strict=True)]
        areas = np.trapezoid(true, false, axis=1)
        both = np.hstack([np.stack(curves), np.asarray(areas)[:, None]])
        sums += np.where(found[:, None] > 0, found[:, None] * both, 0.0)
        pairs += found[:, None]
    with np.errstate(invalid="ignore"):
        curves_and_area = sums / pairs
    low, high = _quantiles(curves_and_area[1:, :-1])
    *curve, area = curves_and_area[0]
    return Roc(_GRID, np.array(curve), low, high, float(area))


def patient_interval(
    patients: NDArray[np.str_], errors: Array, resamples: int = 1000
) -> tuple[Array, Array, Array]:
    """Mean error of each column, with its 95 % patient-level bootstrap interval.

    Parameters
    ----------
    patients : ndarray of str, (N,)
    errors : ndarray, float, (N, K)
        NaN where a label is missing.
    resamples : int

    Returns
    -------
    mean, low, high : ndarray, float, (K,)
        NaN where undefined.
    """
    weights = _draw_patients(patients, resamples)
    present = np.isfinite(errors)
    with np.errstate(invalid="ignore"):
        means = weights @ np.where(present, errors, 0.0) / (weights @ present.astype(int))
    low, high = _quantiles(means[1:])
    return means[0], low, high


@dataclass(frozen=True)
class Bin:
    """Images of similar predicted probability: the share that is positive, with its interval."""

    predicted: float
    observed: float
    low: float
    high: float
    count: int


def calibration_bins(positive: NDArray[np.bool_], probabilities: Array) -> list[Bin]:
    """Group (N,) predictions into at most ten bins of equal counts of twenty or more.

    Intervals are Wilson's, at 95 %, for independent images.
    """
    from scipy.stats import binomtest

    order = np.argsort(probabilities, kind="stable")
    bins = []
    # A bin ends after all images of a probability: their order in a file means nothing.
    ends = np.searchsorted(
        (ranked := probabilities[order]),
        [ranked[part[-1]] for part in _equal_parts(len(order))],
        side="right",
    )
    for part in np.split(order, np.unique(ends)[:-1]):
        hits = int(positive[part].sum())
        interval = binomtest(hits, len(part)).proportion_ci(method="wilson")
        predicted = float(probabilities[part].mean())
        bins.append(Bin(predicted, hits / len(part), interval.low, interval.high, len(part)))
    return bins


def _equal_parts(count: int) -> list[NDArray[np.intp]]:
    parts = np.array_split(np.arange(count), max(1, min(10, count // 20)))
    return [part for part in parts if len(part)]


def _draw_patients(patients: NDArray[np.str_], resamples: int) -> NDArray[np.integer]:
    """How often each image is drawn, (resamples + 1, N); row 0 has every image once."""
    every, index = np.unique(patients, return_inverse=True)
    generator = np.random.default_rng(_SEED)
    drawn = generator.multinomial(len(every), np.full(len(every), 1 / len(every)), size=resamples)
    return np.vstack([np.ones(len(every), dtype=drawn.dtype), drawn])[:, index]


def _weighted_roc(
    positive: NDArray[np.bool_], scores: Array, weights: Array
) -> tuple[Array, Array]:
    """Rates (R, T + 1) of false and true positives at T thresholds, for weights (R, N).

    A row without both classes is NaN. Images of equal score pass a threshold together.
    """
    order = np.argsort(-scores, kind="stable")
    last_of_tie = np.flatnonzero(np.diff(-scores[order], append=np.inf))
    rates = []
    for chosen in (~positive, positive):
        passed = np.cumsum(weights[:, order] * chosen[order], axis=1)[:, last_of_tie]
        with np.errstate(invalid="ignore"):
            share = passed / passed[:, -1:]
        rates.append(np.hstack([np.zeros((len(weights), 1)), share]))
    undefined = np.isnan(rates[0][:, -1]) | np.isnan(rates[1][:, -1])
    for share in rates:
        share[undefined] = np.nan
    return rates[0], rates[1]


def _quantiles(values: Array) -> tuple[Array, Array]:
    """Percentiles 2.5 and 97.5 over the rows; NaN where most rows are undefined."""
    defined = np.isfinite(values)
    enough = 2 * defined.sum(axis=0) >= len(values)
    low, high = np.full((2, values.shape[1]), np.nan)
    if enough.any():
        low[enough], high[enough] = np.nanquantile(values[:, enough], _LEVELS, axis=0)
    return low, high
