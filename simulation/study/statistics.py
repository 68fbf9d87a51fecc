"""The statistics of a study, each table with its unit of analysis.

Two units are never mixed. *Cells* (a fold and a seed of one arm and backbone) say how stable a
difference is when training is repeated. *Patients*, over the predictions of all test folds of one
seed together, say how far it would hold in other patients like these.
"""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from mdmt.delong import compare_aurocs
from mdmt.metrics import bootstrap_interval
from mdmt.seeds import derive_seed
from mdmt.statistics import compare_pairs, holm, mean_and_error
from simulation.study.cells import Finished
from simulation.study.config import StudyConfig
from simulation.study.outcomes import ALL, CellKey, Predicted, TestSets, pooled_predictions

__all__ = ["study_statistics", "with_all_sites"]

FORMAT = 1
_DISTINCT = "those that test the same images are averaged first and count once"
_WITHIN = "an AUROC compares images of one fold, which one model ranked, and folds weigh by pairs"
UNITS = {
    "summary": f"cells: {_DISTINCT}; mean and standard error over the n test sets; folds share"
    " training images, so the error is a lower bound",
    "paired": "cells: differences between two arms in the same backbone, fold and seed;"
    f" {_DISTINCT}; two-sided; Holm's correction over the pairs of all arms but constant, of one"
    " backbone, site and task",
    "intervals": f"patients: test predictions of all folds of one seed; {_WITHIN}; percentile"
    " bootstrap of 1000 resamples that draw patients with all their images",
    "delong": f"patients: test predictions of all folds of one seed; {_WITHIN}; DeLong's test with"
    " images clustered by patient (Obuchowski 1997); two-sided; Holm's correction over the pairs"
    " of arms of one backbone, seed, site and output",
}

Row = Mapping[str, Any]


def study_statistics(
    study: StudyConfig, results: Sequence[Row], cells: Sequence[Finished]
) -> dict[str, Any]:
    """Every table of ``statistics.json``.

    Parameters
    ----------
    study : StudyConfig
    results : sequence of mapping
        Rows of ``results.csv``.
    cells : sequence of Finished

    Returns
    -------
    dict
        ``summary``, ``paired``, ``intervals`` and ``delong``: each a ``unit`` and ``rows``.
    """
    predicted = list(pooled_predictions(study, cells))
    tests = _test_sets(study, predicted)
    tables = {
        "summary": _summary(results, tests),
        "paired": _paired(study, results, tests),
        "intervals": [_interval(one) for one in predicted],
        "delong": list(_delong([one for one in predicted if one.arm in _compared(study)])),
    }
    primary = {
        name: {"metric": task.space.primary, "better": task.space.primary_is_better_when}
        for name, task in study.federation.tasks.items()
    }
    return {"format": FORMAT, "target": study.target, "primary": primary} | {
        name: {"unit": UNITS[name], "rows": rows} for name, rows in tables.items()
    }


def with_all_sites(results: Iterable[Row]) -> list[dict[str, Any]]:
    """Add the mean over sites, weighted by their labelled test images, where there are several.

    An arm that did not test every site of the task in a cell has none there: means over other
    sites cannot be compared.
    """
    rows = [dict(row) for row in results]
    grid = ("arm", "backbone", "fold", "seed", "task", "metric")
    by_cell: dict[tuple[Any, ...], list[Row]] = defaultdict(list)
    for row in rows:
        by_cell[tuple(row[key] for key in grid)].append(row)
    sites: dict[str, set[str]] = defaultdict(set)
    for row in rows:
        sites[row["task"]].add(row["site"])
    for key, group in by_cell.items():
        if len(group) == 1 or len(group) < len(sites[group[0]["task"]]):
            continue
        total = sum(row["n"] for row in group)
        defined = total > 0 and all(row["value"] is not None for row in group)
        mean = sum(row["value"] * row["n"] for row in group) / total if defined else None
        rows.append(dict(zip(grid, key, strict=True)) | {"site": ALL, "value": mean, "n": total})
    return rows


def _test_sets(study: StudyConfig, predicted: Sequence[Predicted]) -> TestSets:
    images: dict[tuple[str, str, str, str], set[str]] = defaultdict(set)
    for one in predicted:
        for fold, image in one.images:
            images[one.task, one.site, fold, str(one.seed)].add(image)
    return TestSets(images, redrawn=study.redraw)


def _summary(results: Sequence[Row], tests: TestSets) -> list[dict[str, Any]]:
    keys = ("arm", "backbone", "site", "task", "metric")
    values: dict[tuple[Any, ...], dict[CellKey, float | None]] = defaultdict(dict)
    for row in with_all_sites(results):
        cell = row["backbone"], row["fold"], row["seed"]
        values[tuple(row[key] for key in keys)][cell] = row["value"]
    rows = []
    for key, found in values.items():
        names = dict(zip(keys, key, strict=True))
        defined = {cell: value for cell, value in found.items() if value is not None}
        means = tests.means(names["task"], names["site"], defined)
        mean, error = mean_and_error(means) if means else (None, None)
        counts = {"n": len(means), "cells": len(defined), "undefined": len(found) - len(defined)}
        rows.append(names | {"mean": mean, "error": error} | counts)
    return rows


def _paired(study: StudyConfig, results: Sequence[Row], tests: TestSets) -> list[dict[str, Any]]:
    """Every pair of arms on each task's primary metric, per backbone and over all of them."""
    primary = {name: task.space.primary for name, task in study.federation.tasks.items()}
    values: dict[tuple[str, str], dict[str, dict[CellKey, float]]] = defaultdict(
        lambda: defaultdict(dict)
    )
    for row in with_all_sites(results):
        if row["metric"] == primary[row["task"]] and row["value"] is not None:
            cell = row["backbone"], row["fold"], row["seed"]
            values[row["task"], row["site"]][row["arm"]][cell] = row["value"]
    backbones = [backbone.label for backbone in study.grid_backbones]
    families = [*backbones, ALL] if len(backbones) > 1 else backbones
    rows = []
    for (task, site), by_arm in values.items():
        for family in families:
            pairs = []
            for a, b in itertools.combinations(_compared(study), 2):
                cells = [c for c in by_arm[a] if c in by_arm[b] and family in (c[0], ALL)]
                if cells:
                    first, second = (
                        tests.means(task, site, {c: by_arm[arm][c] for c in cells})
                        for arm in (a, b)
                    )
                    key = {"backbone": family, "site": site, "task": task, "metric": primary[task]}
                    found = asdict(compare_pairs(first, second))
                    pairs.append(key | {"arm_a": a, "arm_b": b} | found)
            rows += _corrected(pairs, ("p_t", "p_w"))
    return rows


def _interval(one: Predicted) -> dict[str, Any]:
    metric = one.space.primary
    low, high = bootstrap_interval(
        one.space,
        one.predictions,
        one.targets,
        one.patients,
        metric,
        seed=derive_seed(one.seed, "study bootstrap", one.site, one.task),
        strata=one.folds,
    )
    value = one.space.metric(metric, one.predictions, one.targets, one.folds)
    return one.key | {
        "arm": one.arm,
        "metric": metric,
        "value": value if np.isfinite(value) else None,
        "low": low,
        "high": high,
        **one.counts(np.asarray(np.isfinite(one.targets).any(axis=1))),
    }


def _delong(predicted: Sequence[Predicted]) -> Iterator[dict[str, Any]]:
    groups: dict[tuple[Any, ...], list[Predicted]] = defaultdict(list)
    for one in predicted:
        groups[tuple(one.key.values())].append(one)
    for group in groups.values():
        for name, column in group[0].binary_outputs():
            pairs = []
            for a, b in itertools.combinations(group, 2):
                if a.images != b.images:  # an arm that did not test them all
                    continue
                labelled = np.isfinite(a.binary_targets(column))
                scores = a.predictions[labelled, column], b.predictions[labelled, column]
                if not all(np.isfinite(values).all() for values in scores):
                    continue
                positive = a.binary_targets(column)[labelled] == 1
                found = compare_aurocs(positive, *scores, a.patients[labelled], a.folds[labelled])
                if found is not None:
                    key = a.key | {"output": name, "arm_a": a.arm, "arm_b": b.arm}
                    pairs.append(key | asdict(found) | a.counts(labelled))
            yield from _corrected(pairs, ("p",))


def _corrected(rows: list[dict[str, Any]], names: Sequence[str]) -> list[dict[str, Any]]:
    """Add ``<name>_holm`` to the rows of one family."""
    for name in names:
        for row, adjusted in zip(rows, holm([row[name] for row in rows]), strict=True):
            row[f"{name}_holm"] = adjusted
    return rows


def _compared(study: StudyConfig) -> list[str]:
    """Arms that are tested against each other: a constant ranks nothing, it is the floor."""
    return [arm.label for arm in study.arms if arm.kind != "constant"]
