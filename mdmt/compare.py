"""The difference between two models on the same patients, with its interval."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from mdmt.metrics import bootstrap, comparable
from mdmt.tasks import Task
from mdmt.tasks.base import FloatArray


class Difference(NamedTuple):
    """The difference of a metric, a - b, and its 95 % interval; None if it is not known."""

    value: float | None
    low: float | None = None
    high: float | None = None


def paired_differences(
    task: Task,
    models: Mapping[str, FloatArray],
    reference: FloatArray,
    targets: FloatArray,
    patients: NDArray[np.str_],
    *,
    seed: int,
    resamples: int = 1000,
) -> dict[str, Difference]:
    """Compare the primary metric of models with that of a reference.

    Every resample draws patients, with all images of each, and measures all models on them. Thus
    the interval is that of the difference: what makes a patient difficult for both models cancels.

    Parameters
    ----------
    task : Task
    models : mapping of str to ndarray
        Predictions of each model, float, (N, len(task.prediction_names)).
    reference : ndarray, float, (N, len(task.prediction_names))
        Predictions of the reference.
    targets : ndarray, float, (N, task.width)
        NaN is a missing label. Samples without a label are not used.
    patients : ndarray of str, (N,)
    seed, resamples
        See `bootstrap`.

    Returns
    -------
    dict of str to Difference
        Model minus reference. The interval is None if there are too few patients
        (`mdmt.metrics.comparable`) or if the difference is undefined in most resamples.
    """
    rows = np.isfinite(targets).any(axis=1)
    names, metric, truth = list(models), task.primary, targets[rows]
    tested = [predictions[rows] for predictions in (*models.values(), reference)]

    def measure(index: NDArray[np.intp]) -> FloatArray:
        values = [
            task.metric(metric, predictions[index], truth[index])
            if np.isfinite(predictions).all()
            else np.nan
            for predictions in tested
        ]
        return np.array(values[:-1]) - values[-1]

    differences = measure(np.arange(len(truth))) if len(truth) else np.full(len(names), np.nan)
    ends = np.full((2, len(names)), np.nan)
    if names and comparable(task, truth, patients[rows]):
        ends = np.array(bootstrap(measure, patients[rows], seed=seed, resamples=resamples))
    found = np.vstack([differences, ends])
    table = [[float(v) if np.isfinite(v) else None for v in column] for column in found.T]
    return {name: Difference(*values) for name, values in zip(names, table, strict=True)}
