"""Statistics that task kinds share. Undefined is NaN, never an exception or a warning."""

import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mdmt.tasks.base import FloatArray


def mean_defined(values: Iterable[float]) -> float:
    """Mean of the values that are not NaN; NaN if all are."""
    defined = [value for value in values if not math.isnan(value)]
    return sum(defined) / len(defined) if defined else math.nan


def auroc(
    positive: NDArray[np.bool_], scores: FloatArray, strata: NDArray[Any] | None = None
) -> float:
    """Area under the ROC curve, from ranks (Mann-Whitney U); a tie counts one half.

    Parameters
    ----------
    positive : ndarray, bool, (N,)
    scores : ndarray, float, (N,)
        Higher means more likely positive.
    strata : ndarray, (N,), optional
        Compare only samples of one stratum, such as the model that gave the score: the mean of the
        strata's areas, weighted by their pairs of a positive and a negative.

    Returns
    -------
    float
        In [0, 1]; NaN unless both classes are present.

    Examples
    --------
    >>> auroc(np.array([False, False, True, True]), np.array([0.1, 0.4, 0.35, 0.8]))
    0.75
    """
    ranks, stratum = _mean_ranks(scores), np.zeros(len(positive), dtype=np.intp)
    if strata is not None:
        _, stratum = np.unique(strata, return_inverse=True)
        ranks = _mean_ranks(ranks + stratum * (len(ranks) + 1.0))  # one stratum above the other
    size, n_positive = np.bincount(stratum), np.bincount(stratum, positive)
    pairs = (n_positive * (size - n_positive)).sum()
    if pairs == 0:
        return math.nan
    below = np.cumsum(size) - size  # samples in lower strata
    rank_sums = np.bincount(stratum, positive * (ranks - below[stratum]))
    return float((rank_sums - n_positive * (n_positive + 1) / 2).sum() / pairs)


def _mean_ranks(values: FloatArray) -> FloatArray:
    """Rank values from 1; equal ones share the mean of their ranks."""
    _, place, ties = np.unique(values, return_inverse=True, return_counts=True)
    return np.asarray((ties.cumsum() - (ties - 1) / 2)[place])


def mean_absolute_error(predictions: FloatArray, targets: FloatArray) -> float:
    """Mean over outputs of each output's mean |error| over its labelled samples.

    Parameters
    ----------
    predictions, targets : ndarray, float, (N, K)
        NaN is a missing label.
    """
    present = np.isfinite(targets)
    counts = present.sum(axis=0)
    sums = np.abs(np.where(present, predictions - targets, 0.0)).sum(axis=0)
    labelled = counts > 0
    return float((sums[labelled] / counts[labelled]).mean()) if labelled.any() else math.nan


def error_metrics(
    predictions: FloatArray, targets: FloatArray, names: Sequence[str], *, total: bool
) -> dict[str, float]:
    """Metrics of K numbers per sample, and of their sum.

    Parameters
    ----------
    predictions, targets : ndarray, float, (N, K)
        NaN is a missing label.
    names : sequence of str, length K
    total : bool
        Whether the sum over outputs has a meaning.

    Returns
    -------
    dict
        ``mae``, ``pearson``, ``r2``, ``mse`` and ``sd`` (of the error): means over the outputs
        where they are defined. ``mae_<name>`` and ``pearson_<name>`` per output. With `total`,
        ``sum_mae``, ``sum_pearson`` and ``sum_r2`` of the sum over outputs, on the samples with
        every label (the Brixia global score).
    """
    present = np.isfinite(targets)
    outputs = [_errors(predictions[rows, k], targets[rows, k]) for k, rows in enumerate(present.T)]
    keys = ("mae", "pearson", "r2", "mse", "sd")
    result = {key: mean_defined(output[key] for output in outputs) for key in keys}
    for name, output in zip(names, outputs, strict=True):
        result |= {f"{key}_{name}": output[key] for key in ("mae", "pearson")}
    if total:
        complete = present.all(axis=1)
        of_sum = _errors(predictions[complete].sum(axis=1), targets[complete].sum(axis=1))
        result |= {f"sum_{key}": of_sum[key] for key in ("mae", "pearson", "r2")}
    return result


def _errors(predictions: FloatArray, targets: FloatArray) -> dict[str, float]:
    """Metrics of one output (N,), all labelled."""
    if len(targets) == 0:
        return dict.fromkeys(("mae", "pearson", "r2", "mse", "sd"), math.nan)
    error = np.asarray(predictions - targets, np.float64)
    both_vary = _varies(predictions) and _varies(targets)  # else r is undefined
    squares = float((error**2).mean())
    return {
        "mae": float(np.abs(error).mean()),
        "pearson": float(np.corrcoef(predictions, targets)[0, 1]) if both_vary else math.nan,
        "r2": 1 - squares / float(np.var(targets)) if _varies(targets) else math.nan,
        "mse": squares,
        "sd": float(np.std(error)),
    }


def _varies(values: NDArray[Any]) -> bool:
    """Tell whether (N,) values differ by more than rounding errors."""
    spread = np.ptp(values) if len(values) else 0.0
    return bool(spread > 1e-12 * np.abs(values).max(initial=0.0))
