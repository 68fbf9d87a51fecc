"""Metrics of a task, their uncertainty, and their mean over sites."""

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mdmt.enough import enough_to_compare
from mdmt.shares import limit_shares
from mdmt.tasks import Task
from mdmt.tasks.base import FloatArray

_CLASSES = ("positives", "negatives")


def evaluate_task(
    task: Task, predictions: FloatArray, targets: FloatArray
) -> dict[str, float | int | None]:
    """Return the metrics of `task`, and ``examples``: the number of samples with a label.

    Parameters
    ----------
    task : Task
    predictions : ndarray, float, (N, len(task.prediction_names))
    targets : ndarray, float, (N, task.width)
        NaN is a missing label.

    Returns
    -------
    dict
        An undefined metric is None. If the prediction of a labelled sample is not finite, all
        metrics are undefined: without this sample a diverged model would look too good.
    """
    rows = _labelled_rows(targets)
    predictions, targets = predictions[rows], targets[rows]
    if not np.isfinite(predictions).all():
        targets = np.full_like(targets, np.nan)
    result: dict[str, float | int | None] = {"examples": int(rows.sum())}
    for name, value in task.metrics(predictions, targets).items():
        result[name] = value if math.isfinite(value) else None
    return result


def is_count(metric: str) -> bool:
    """Return True if a metric is a number of images or patients.

    Examples
    --------
    >>> [is_count(name) for name in ("examples", "patients", "positives_SEVERE", "auroc")]
    [True, True, True, False]
    """
    return metric in ("examples", "patients") or is_class_count(metric)


def is_class_count(metric: str) -> bool:
    """Return True if a metric is the number of patients with, or without, one label."""
    return metric.startswith(tuple(f"{name}_" for name in _CLASSES))


def count_patients(task: Task, targets: FloatArray, patients: NDArray[np.str_]) -> dict[str, int]:
    """Count the patients behind the metrics of a task.

    Parameters
    ----------
    task : Task
    targets : ndarray, float, (N, task.width)
        NaN is a missing label.
    patients : ndarray of str, (N,)

    Returns
    -------
    dict
        ``patients``: those with any label. For each of `Task.binary_outputs`
        ``positives_<label>`` and ``negatives_<label>``: those with an image of this class. A
        patient with images of both is counted in both.
    """
    truth = task.truth(np.asarray(targets, dtype=np.float64))
    found = {"patients": len(np.unique(patients[_labelled_rows(targets)]))}
    for output in task.binary_outputs:
        for name, value in zip(_CLASSES, (1, 0), strict=True):
            of_class = np.unique(patients[truth[:, output] == value])
            found[f"{name}_{task.prediction_names[output]}"] = len(of_class)
    return found


def comparable(task: Task, targets: FloatArray, patients: NDArray[np.str_]) -> bool:
    """Return True if there are enough patients for an interval of the primary metric.

    `enough_to_compare` is asked about all labelled patients, and about the classes of each binary
    output that has both of them: the others are not part of the metric.
    """
    counts = count_patients(task, targets, patients)
    classes = [counts["patients"]]
    for output in task.binary_outputs:
        pair = [counts[f"{name}_{task.prediction_names[output]}"] for name in _CLASSES]
        classes += pair if all(pair) else []
    return enough_to_compare(classes)


def bootstrap(
    statistic: Callable[[NDArray[np.intp]], ArrayLike],
    patients: NDArray[np.str_],
    *,
    seed: int,
    resamples: int = 1000,
    level: float = 0.95,
) -> tuple[FloatArray, FloatArray]:
    """Return the percentile bootstrap interval of a statistic. Patients are drawn with all images.

    Parameters
    ----------
    statistic : callable
        Takes the positions of the drawn images, with repetitions. Returns a number or an array of
        shape (K,); NaN if undefined.
    patients : ndarray of str, (N,)
        The images of a patient are not independent, so they are drawn together.
    seed : int
    resamples : int
    level : float
        Coverage, in (0, 1).

    Returns
    -------
    low, high : ndarray, float64, shape of the statistic
        NaN if the statistic is undefined in most resamples. Resamples with an undefined statistic
        are not used.
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
    """Return the `bootstrap` interval of one metric.

    Parameters
    ----------
    task : Task
    predictions : ndarray, float, (N, len(task.prediction_names))
    targets : ndarray, float, (N, task.width)
        NaN is a missing label. Samples without a label are not used.
    patients : ndarray of str, (N,)
    metric : str
        A key of `Task.metrics`.
    seed, resamples, level
        See `bootstrap`.
    strata : ndarray, (N,), optional
        See `Task.metric`. Patients are drawn from all strata together.

    Returns
    -------
    low, high : float or None
        None if there are too few patients (`comparable`), or if the metric is undefined in most
        resamples.
    """
    rows = _labelled_rows(targets)
    predictions, targets, patients = predictions[rows], targets[rows], patients[rows]
    within = np.zeros(len(targets)) if strata is None else strata[rows]
    if not comparable(task, targets, patients) or not np.isfinite(predictions).all():
        return None, None

    def measure(index: NDArray[np.intp]) -> float:
        return task.metric(metric, predictions[index], targets[index], within[index])

    low, high = bootstrap(measure, patients, seed=seed, resamples=resamples, level=level)
    return (float(low), float(high)) if np.isfinite(low) else (None, None)


def weighted_mean_metrics(
    sites: Mapping[str, Mapping[str, float | int | None]], max_weight: float | None = None
) -> dict[str, float | int | None]:
    """Return the mean of each ``task/metric`` over sites, weighted by ``task/examples``.

    If a site reports a metric but withholds its examples, all sites have equal weights.

    Parameters
    ----------
    sites : mapping of str to mapping
        Metrics of each site from `evaluate_task`, with the task in the name.
    max_weight : float, optional
        Largest weight of a site (`limit_shares`).

    Returns
    -------
    dict
        A site without a value of a metric does not count; None if no site has a value.
        A count, such as ``task/examples``, is the sum, or None if a site withholds it.

    Examples
    --------
    >>> weighted_mean_metrics(
    ...     {"a": {"t/mae": 1.0, "t/examples": 3}, "b": {"t/mae": 2.0, "t/examples": 1}}
    ... )
    {'t/mae': 1.25, 't/examples': 4}
    """
    ordered = dict(sorted(sites.items()))
    result: dict[str, float | int | None] = {}
    for key in dict.fromkeys(key for site in ordered.values() for key in site):
        task, _, metric = key.partition("/")
        support = f"{task}/examples"
        if is_count(metric):
            counts = [site.get(key, 0) for site in ordered.values()]
            result[key] = None if None in counts else sum(int(n) for n in counts if n)
            continue
        values = {
            name: value
            for name, site in ordered.items()
            if (value := site.get(key)) is not None and site.get(support, 0) != 0
        }
        weights = _weights({name: ordered[name][support] for name in values}, max_weight)
        mean = sum(value * weights[name] for name, value in values.items())
        result[key] = mean / sum(weights.values()) if values else None
    return result


def _weights(
    examples: Mapping[str, float | int | None], max_weight: float | None
) -> dict[str, float]:
    """Return weights by site, with any sum: equal ones if a site withholds its examples."""
    known = {name: n for name, n in examples.items() if n is not None}
    weights: dict[str, float] = (
        {**known} if len(known) == len(examples) else dict.fromkeys(examples, 1)
    )
    whole = sum(weights.values())
    shares = {name: weight / whole for name, weight in weights.items()}
    limited = limit_shares(shares, max_weight)
    return weights if limited == shares else limited


def _labelled_rows(targets: FloatArray) -> NDArray[np.bool_]:
    return np.asarray(np.isfinite(targets).any(axis=1))


def _images_of_patients(patients: NDArray[np.str_]) -> list[NDArray[np.intp]]:
    """Return the positions of the images of each patient, in the order of patients."""
    _, first, counts = np.unique(np.sort(patients), return_index=True, return_counts=True)
    order = np.argsort(patients, kind="stable")
    return [order[start : start + n] for start, n in zip(first, counts, strict=True)]
