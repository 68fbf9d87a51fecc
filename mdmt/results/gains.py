"""Out-of-fold metrics of arms, and their gains over comparators, with paired patient bootstrap.

A metric of an arm is that of its test predictions of all folds of one seed, averaged over seeds. A
resample draws patients with all their images, at all sites, of all tasks and seeds; it is the same
for all arms. So the interval of a difference is *paired*, and a patient of two sites stays one.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from itertools import chain
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mdmt.results.predictions import Predictions
from mdmt.results.statistics import holm
from mdmt.results.studies import Study
from mdmt.seeds import derive_seed
from mdmt.tasks.base import FloatArray

RESAMPLES = 1000
MEAN = "mean of sites"
"""Stands for the unweighted mean over the sites of a task. No site can have this name."""
BEST = "best"
"""Stands for the comparator of each task: the one that is chosen for it, or that is best there."""
_ALSO = ("balanced_accuracy",)
"""Metrics with an interval besides the primary one."""
_ROUNDING = 1e-12
"""A smaller gain is 0."""

Draws = dict[tuple[str, str, str, str], FloatArray]
"""(arm, task, site, metric) → the observed value, then those of the resamples: (1 + RESAMPLES,)."""


def gain_tables(
    study: Study, chosen: Mapping[str, str] | None = None
) -> dict[str, list[dict[str, Any]]]:
    """Compute the tables ``out_of_fold``, ``gains`` and ``endpoint`` of a study.

    They are empty if the study has no `comparators`.

    Parameters
    ----------
    study : Study
    chosen : mapping of str to str, optional
        Task → its comparator, chosen beforehand with other patients. Without it the best one is
        chosen with the same patients, which makes gains over it smaller.

    Returns
    -------
    dict of str to list of dict
        Rows. A gain g is positive if the arm is better: g = s (m_arm - m_comparator), s = 1 if a
        higher metric is better, else -1. Standardised, it is g / |m_perfect - m_constant|: the part
        of the way from the best constant prediction to a perfect one. The endpoint is the mean of
        the standardised gains over tasks; a task's is the mean over its sites.
    """
    config = study.config
    tables: dict[str, list[dict[str, Any]]] = {"out_of_fold": [], "gains": [], "endpoint": []}
    comparators = config.get("comparators") or ()
    targets = config.get("targets") or (config["target"],)
    for backbone in study.backbones if comparators else ():
        found = [o for o in study.predictions if o.backbone == backbone and o.task in targets]
        draws = _draw(found, seed=derive_seed(0, "gains", backbone), redrawn=study.tests.redrawn)
        sites = _sites(found, targets)
        _add_means(draws, sites)
        scales = _scales(found)
        for (arm, task, site, metric), values in draws.items():
            key = {"backbone": backbone, "arm": arm, "task": task, "site": site, "metric": metric}
            tables["out_of_fold"].append(key | _estimate("value", values))
        better = {t: chosen[t] if chosen else _best(study, draws, t) for t in sites}
        for arm in study.arms:
            for comparator in (*comparators, BEST) if len(comparators) > 1 else comparators:
                if arm in (*comparators, *study.arms_of("constant")):
                    continue
                pairs = {t: better[t] if comparator == BEST else comparator for t in sites}
                name = {"backbone": backbone, "arm": arm, "comparator": comparator}
                rows, endpoint = _gains(study, draws, scales, sites, arm, pairs)
                tables["gains"] += [name | row for row in rows]
                if endpoint is not None:
                    tables["endpoint"].append(name | {"targets": len(sites)} | endpoint)
    return tables


def _gains(
    study: Study,
    draws: Draws,
    scales: Mapping[tuple[str, str], float],
    sites: Mapping[str, Sequence[str]],
    arm: str,
    comparators: Mapping[str, str],
) -> tuple[list[dict[str, Any]], dict[str, Any] | None]:
    """Rows of one arm for each task and site; the endpoint if the arm has all tasks."""
    margins = study.config.get("margins") or {}
    rows: list[dict[str, Any]] = []
    of_tasks = []
    for task, names in sites.items():
        space, other = study.spaces[task], comparators[task]
        sign = 1 if space.primary_is_better_when == "higher" else -1
        of_site = {
            site: sign * (draws[first] - draws[second])
            for site in names
            for first, second in [[(one, task, site, space.primary) for one in (arm, other)]]
            if first in draws and second in draws
        }
        standardised = {site: gain / scales[task, site] for site, gain in of_site.items()}
        whole = MEAN if len(names) > 1 else names[0]
        if of_site.keys() == set(names):
            of_site[whole] = np.mean(list(of_site.values()), axis=0)
            standardised[whole] = np.mean(list(standardised.values()), axis=0)
            of_tasks.append(standardised[whole])
        for site, gain in of_site.items():
            row: dict[str, Any] = {
                "task": task,
                "site": site,
                "metric": space.primary,
                "against": other,
            }
            row |= _estimate("gain", gain)
            row |= _estimate("standardised", standardised[site], prefix="standardised_")
            row["p"] = _p_value(gain) if site == whole else None
            row["margin"] = margins.get(task)
            known = row["margin"] is not None and row["low"] is not None
            row["not_worse"] = row["low"] > -row["margin"] if known else None
            rows.append(row)
    for row, p_holm in zip(rows, holm([row["p"] for row in rows]), strict=True):
        row["p_holm"] = p_holm
    complete = len(of_tasks) == len(sites)
    return rows, _estimate("gain", np.mean(of_tasks, axis=0)) if complete else None


def _draw(predictions: Sequence[Predictions], *, seed: int, redrawn: bool) -> Draws:
    """Metrics of each arm, task and site, averaged over seeds, in the same resamples of patients.

    If data are `redrawn`, an id is another patient in another seed, and each seed draws its own.
    """
    people = [
        [(one.seed if redrawn else 0, patient) for patient in one.patients.tolist()]
        for one in predictions
    ]
    code_of = {key: code for code, key in enumerate(sorted(set(chain(*people))))}
    strata = np.array([stratum for stratum, _ in code_of])
    generator = np.random.default_rng(seed)
    counts = np.ones((1 + RESAMPLES, len(code_of)), dtype=np.intp)
    for members in (np.flatnonzero(strata == stratum) for stratum in np.unique(strata)):
        n = len(members)
        for row in counts[1:]:
            row[members] = np.bincount(generator.integers(n, size=n), minlength=n)
    of_seeds: dict[tuple[str, str, str, str], list[FloatArray]] = defaultdict(list)
    for one, those in zip(predictions, people, strict=True):
        repeats = counts[:, [code_of[key] for key in those]]
        for metric in one.space.shown_metrics:
            if metric in (one.space.primary, *_ALSO):
                measured = _measure(one, metric, repeats)
                of_seeds[one.arm, one.task, one.site, metric].append(measured)
    return {key: np.mean(values, axis=0) for key, values in of_seeds.items()}


def _measure(one: Predictions, metric: str, repeats: NDArray[np.intp]) -> FloatArray:
    """One metric with each image repeated as often as a row of `repeats` (R, N) says: (R,)."""
    labelled = np.flatnonzero(np.isfinite(one.targets).any(axis=1))
    _, folds = np.unique(one.folds, return_inverse=True)
    values = np.full(len(repeats), math.nan)
    if np.isfinite(one.predictions[labelled]).all():
        for number, row in enumerate(repeats[:, labelled]):
            index = np.repeat(labelled, row)
            if len(index):
                data = one.predictions[index], one.targets[index], folds[index]
                values[number] = one.space.metric(metric, *data)
    return values


def _sites(predictions: Iterable[Predictions], targets: Sequence[str]) -> dict[str, list[str]]:
    """Sites that test each target, in the order of targets."""
    found: dict[str, set[str]] = {task: set() for task in targets}
    for one in predictions:
        found[one.task].add(one.site)
    return {task: sorted(names) for task, names in found.items() if names}


def _add_means(draws: Draws, sites: Mapping[str, Sequence[str]]) -> None:
    """Add the mean over sites of each arm that has all sites of a task."""
    for arm, task, metric in dict.fromkeys((a, t, m) for a, t, _, m in draws):
        values = [draws.get((arm, task, site, metric)) for site in sites[task]]
        present = [value for value in values if value is not None]
        if len(present) == len(values) > 1:
            draws[arm, task, MEAN, metric] = np.mean(present, axis=0)


def _scales(predictions: Iterable[Predictions]) -> dict[tuple[str, str], float]:
    """|m_perfect - m_constant| of the primary metric, by task and site.

    The constant is the best one for the tested labels.
    """
    scales = {}
    for one in predictions:
        rows = np.isfinite(one.targets).any(axis=1)
        targets = one.targets[rows]
        constant = np.tile(one.space.constant(targets), (len(targets), 1))
        both = (one.space.truth(targets), constant)
        perfect, floor = (one.space.metric(one.space.primary, p, targets) for p in both)
        scales[one.task, one.site] = abs(perfect - floor) or math.nan
    return scales


def _best(study: Study, draws: Draws, task: str) -> str:
    """The comparator with the best observed mean over the sites of a task."""
    space = study.spaces[task]
    sign = 1 if space.primary_is_better_when == "higher" else -1

    def value(arm: str) -> float:
        found = [
            values[0]
            for (name, of, site, metric), values in draws.items()
            if (name, of, metric) == (arm, task, space.primary) and site != MEAN
        ]
        mean = sign * float(np.mean(found)) if found else math.nan
        return mean if math.isfinite(mean) else -math.inf

    return str(max(study.config["comparators"], key=value))


def _estimate(name: str, values: FloatArray, prefix: str = "") -> dict[str, float | None]:
    """Observed value and percentile interval; None where most resamples are undefined."""
    observed, drawn = values[0], values[1:][np.isfinite(values[1:])]
    if not math.isfinite(observed):
        return {name: None, f"{prefix}low": None, f"{prefix}high": None}
    enough = 2 * len(drawn) >= len(values) - 1
    low, high = np.quantile(drawn, (0.025, 0.975)).tolist() if enough else (None, None)
    return {name: float(observed), f"{prefix}low": low, f"{prefix}high": high}


def _p_value(values: FloatArray) -> float | None:
    """Two-sided p of a bootstrapped gain: 2 min(k₊ + 1, k₋ + 1) / (R + 1), at most 1.

    k₊ and k₋ are the resamples at or above and at or below 0.
    """
    drawn = values[1:][np.isfinite(values[1:])]
    if not math.isfinite(values[0]) or 2 * len(drawn) < len(values) - 1:
        return None
    smaller = min(int((drawn >= -_ROUNDING).sum()), int((drawn <= _ROUNDING).sum()))
    return min(1.0, 2 * (smaller + 1) / (len(drawn) + 1))
