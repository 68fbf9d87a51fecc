"""Curves of predicted probabilities, and intervals that draw patients, not images."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["Bin", "Cell", "Roc", "calibration_bins", "patient_interval", "roc_with_band"]

Array = NDArray[np.floating]

_LEVELS = (0.025, 0.975)
_GRID = np.linspace(0.0, 1.0, 101)


@dataclass(frozen=True)
class Cell:
    """Test predictions of one fold and seed.

    Attributes
    ----------
    images, patients : ndarray of str, (N,)
    targets, predictions : ndarray, float, (N, K)
        A column per output; NaN where a label is missing.
    """

    images: NDArray[np.str_]
    patients: NDArray[np.str_]
    targets: Array
    predictions: Array


@dataclass(frozen=True)
class Roc:
    """A mean ROC curve on a grid of false-positive rates, and its area.

    Attributes
    ----------
    false_positive, true_positive, low, high : ndarray, float, (101,)
    area : float
    area_low, area_high : float or None
        None where too few resamples have both classes; `low` and `high` are NaN there.
    """

    false_positive: Array
    true_positive: Array
    low: Array
    high: Array
    area: float
    area_low: float | None
    area_high: float | None


def roc_with_band(cells: Sequence[Cell], output: int, *, seed: int, resamples: int = 1000) -> Roc:
    """Average the cells' ROC curves vertically, with 95 % patient-level bootstrap intervals.

    A cell's scores come from one model, so they are ranked within the cell; the area of the mean
    curve is the mean of the cells' AUROC.

    Parameters
    ----------
    cells : sequence of Cell
        Each with both classes in it.
    output : int
        Column of `Cell.targets` (1 positive, 0 negative) and `Cell.predictions`.
    seed : int
    resamples : int
        A patient is drawn with all images and into every cell that tests them.
    """
    curves, areas = np.zeros((resamples + 1, len(_GRID))), np.zeros(resamples + 1)
    for cell, weights in zip(cells, _draw_patients(cells, seed, resamples), strict=True):
        labelled = np.isfinite(cell.targets[:, output])
        positive = cell.targets[labelled, output] == 1
        rates = _weighted_roc(
            positive, cell.predictions[labelled, output], weights[:, labelled].astype(float)
        )
        curves += np.stack([np.interp(_GRID, *pair) for pair in zip(*rates, strict=True)])
        areas += np.trapezoid(rates[1], rates[0], axis=1)
    curves, areas = curves / len(cells), areas / len(cells)
    low, high = _quantiles(curves[1:])
    (area_low,), (area_high,) = _quantiles(areas[1:, None])
    defined = bool(np.isfinite(area_low))
    return Roc(
        false_positive=_GRID,
        true_positive=curves[0],
        low=low,
        high=high,
        area=float(areas[0]),
        area_low=float(area_low) if defined else None,
        area_high=float(area_high) if defined else None,
    )


def patient_interval(
    cells: Sequence[Cell], errors: Callable[[Cell], Array], *, seed: int, resamples: int = 1000
) -> tuple[Array, Array, Array]:
    """Mean over cells of the mean error of each column, with 95 % patient-level intervals.

    Parameters
    ----------
    cells : sequence of Cell
    errors : callable
        Errors (N, K) of a cell, NaN where a label is missing.
    seed, resamples : int

    Returns
    -------
    mean, low, high : ndarray, float, (K,)
        NaN where undefined.
    """
    means = []
    for cell, weights in zip(cells, _draw_patients(cells, seed, resamples), strict=True):
        values = errors(cell)
        present = np.isfinite(values)
        with np.errstate(invalid="ignore"):
            means.append(weights @ np.where(present, values, 0.0) / (weights @ present.astype(int)))
    mean = np.mean(means, axis=0)
    low, high = _quantiles(mean[1:])
    return mean[0], low, high


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
    for part in np.array_split(order, max(1, min(10, len(order) // 20))):
        if not len(part):
            continue
        hits = int(positive[part].sum())
        interval = binomtest(hits, len(part)).proportion_ci(method="wilson")
        predicted = float(probabilities[part].mean())
        bins.append(Bin(predicted, hits / len(part), interval.low, interval.high, len(part)))
    return bins


def _draw_patients(cells: Sequence[Cell], seed: int, resamples: int) -> list[NDArray[np.integer]]:
    """How often each image of each cell is drawn, (resamples + 1, N); row 0 has every one once."""
    every, index = np.unique(np.concatenate([cell.patients for cell in cells]), return_inverse=True)
    generator = np.random.default_rng(seed)
    drawn = generator.multinomial(len(every), np.full(len(every), 1 / len(every)), size=resamples)
    counts = np.vstack([np.ones(len(every), dtype=drawn.dtype), drawn])
    ends = np.cumsum([len(cell.patients) for cell in cells])
    return [counts[:, part] for part in np.split(index, ends[:-1])]


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
