"""Metrics of a task, their uncertainty, and their mean over sites."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mdmt.tasks import Task
from mdmt.tasks.base import FloatArray

__all__ = ["bootstrap", "bootstrap_interval", "evaluate_task", "weighted_mean_metrics"]


def evaluate_task(
    task: Task, predictions: FloatArray, targets: FloatArray
) -> dict[str, float | int | None]:
    """Metrics of `task`, and ``examples``: how many samples have at least one label.

    Parameters
    ----------
    task : Task
    predictions : ndarray, float, (N, len(task.prediction_names))
    targets : ndarray, float, (N, task.width)
        NaN where a label is missing.

    Returns
    -------
    dict
        None where a metric is undefined on these samples. A labelled sample whose prediction is not
        finite makes every metric undefined: leaving it out would flatter a model that diverged.
    """
    rows = _labelled_rows(targets)
    predictions, targets = predictions[rows], targets[rows]
    if not np.isfinite(predictions).all():
        targets = np.full_like(targets, np.nan)
    result: dict[str, float | int | None] = {"examples": int(rows.sum())}
    for name, value in task.metrics(predictions, targets).items():
        result[name] = value if math.isfinite(value) else None
    return result


def bootstrap(
    statistic: Callable[[NDArray[np.intp]], ArrayLike],
    patients: NDArray[np.str_],
    *,
    seed: int,
    resamples: int = 1000,
    level: float = 0.95,
) -> tuple[FloatArray, FloatArray]:
    """Percentile bootstrap interval of a statistic, drawing patients with all their images.

    Parameters
    ----------
    statistic : callable
        Takes the positions of the drawn images, some of them more than once; gives a number or an
        array of shape (K,), NaN where it is undefined.
    patients : ndarray of str, (N,)
        Images of one patient are not independent: they are drawn together or not at all.
    seed : int
    resamples : int
    level : float
        Coverage, in (0, 1).

    Returns
    -------
    low, high : ndarray, float64, shape of the statistic
        NaN where the statistic is undefined in most resamples. Resamples in which it is undefined
        do not count.
    """
    images = _images_of_patients(patients)
    generator = np.random.default_rng(seed)
    values = []
    for _ in range(resamples):
        drawn = generator.integers(len(images), size=len(images))
        values.append(statistic(np.concatenate([images[patient] for patient in drawn])))
    table = np.asarray(values, dtype=np.float64)
    table[~np.isfinite(table)] = np.nan
    enough = 2 * np.isfinite(table).sum(axis=0) >= resamples
    ends = np.full((2, *table.shape[1:]), np.nan)
    if enough.any():
        quantiles = (1 - level) / 2, (1 + level) / 2
        ends[:, enough] = np.nanquantile(table[:, enough], quantiles, axis=0)
    return ends[0], ends[1]


def bootstrap_interval(
    task: Task,
    predictions: FloatArray,
    targets: FloatArray,
    patients: NDArray[np.str_],
    metric: str,
    *,
    seed: int,
    resamples: int = 1000,
    level: float = 0.95,
    strata: NDArray[Any] | None = None,
) -> tuple[float | None, float | None]:
    """`bootstrap` interval of one metric.

    Parameters
    ----------
    task : Task
    predictions : ndarray, float, (N, len(task.prediction_names))
    targets : ndarray, float, (N, task.width)
        NaN where a label is missing; samples without any label are left out.
    patients : ndarray of str, (N,)
    metric : str
        A key of `Task.metrics`.
    seed, resamples, level
        As `bootstrap` takes them.
    strata : ndarray, (N,), optional
        As `Task.metric` takes them; patients are drawn from all strata together.

    Returns
    -------
    low, high : float or None
        None with fewer than two labelled patients, or where the metric is undefined in most
        resamples.
    """
    rows = _labelled_rows(targets)
    predictions, targets, patients = predictions[rows], targets[rows], patients[rows]
    within = np.zeros(len(targets)) if strata is None else strata[rows]
    if len(np.unique(patients)) < 2 or not np.isfinite(predictions).all():
        return None, None

    def measure(index: NDArray[np.intp]) -> float:
        return task.metric(metric, predictions[index], targets[index], within[index])

    low, high = bootstrap(measure, patients, seed=seed, resamples=resamples, level=level)
    return (float(low), float(high)) if np.isfinite(low) else (None, None)


def weighted_mean_metrics(
    sites: Mapping[str, Mapping[str, float | int | None]],
) -> dict[str, float | int | None]:
    """Mean of each ``task/metric`` over sites, weighted by ``task/examples``.

    If a site tells a metric but not its examples, all sites count alike in it.

    Parameters
    ----------
    sites : mapping of str to mapping
        Metrics of each site, as `evaluate_task` gives them, namespaced by task.

    Returns
    -------
    dict
        Sites where a metric is None or absent do not count towards it; None if no site has it.
        ``task/examples`` is the sum; None if a site does not tell its own.

    Examples
    --------
    >>> weighted_mean_metrics(
    ...     {"a": {"t/mae": 1.0, "t/examples": 3}, "b": {"t/mae": 2.0, "t/examples": 1}}
    ... )
    {'t/mae': 1.25, 't/examples': 4}
    """
    ordered = [sites[name] for name in sorted(sites)]
    result: dict[str, float | int | None] = {}
    for key in dict.fromkeys(key for site in ordered for key in site):
        support = f"{key.partition('/')[0]}/examples"
        if key == support:
            counts = [site.get(key, 0) for site in ordered]
            result[key] = None if None in counts else sum(int(n) for n in counts if n)
            continue
        terms = [
            (value, site[support])
            for site in ordered
            if (value := site.get(key)) is not None and site.get(support, 0) != 0
        ]
        untold = any(weight is None for _, weight in terms)
        weights = [1 if untold or weight is None else weight for _, weight in terms]
        mean = sum(value * w for (value, _), w in zip(terms, weights, strict=True))
        result[key] = mean / sum(weights) if terms else None
    return result


def _labelled_rows(targets: FloatArray) -> NDArray[np.bool_]:
    return np.asarray(np.isfinite(targets).any(axis=1))


def _images_of_patients(patients: NDArray[np.str_]) -> list[NDArray[np.intp]]:
    """Positions of the images of every patient, patients in sorted order."""
    _, first, counts = np.unique(np.sort(patients), return_index=True, return_counts=True)
    order = np.argsort(patients, kind="stable")
    return [order[start : start + n] for start, n in zip(first, counts, strict=True)]
