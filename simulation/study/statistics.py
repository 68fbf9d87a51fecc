"""The statistics of a study, each table with its unit of analysis.

Two units are never mixed. *Cells* (a fold and a seed of one arm and backbone) say how stable a
difference is when training is repeated. *Patients*, over the predictions of all test folds of one
seed together, say whether it would hold in other patients like these.
"""

import itertools
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

import numpy as np

from mdmt.enough import FEWEST_OF_A_CLASS, enough_to_compare
from mdmt.metrics import bootstrap_interval
from mdmt.results.delong import compare_aurocs
from mdmt.results.gains import gain_tables
from mdmt.results.predictions import ALL, CellName, Predictions
from mdmt.results.statistics import compare_pairs, holm, mean_of
from mdmt.results.studies import Study
from mdmt.seeds import derive_seed

FORMAT = 1
_DISTINCT = "those that test the same images are averaged first and count once"
_WITHIN = "an AUROC compares images of one fold, which one model ranked, and folds weigh by pairs"
_RESAMPLES = "percentile bootstrap of 1000 resamples that draw patients with all their images"
_PAIRED = (
    "metrics of all folds, averaged over seeds; a gain is positive if the arm is better; each"
    " resample draws the same patients for both arms, at all sites"
)
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
    f" of arms of one backbone, seed, site and output; none for fewer than {FEWEST_OF_A_CLASS}"
    " patients of a class",
    "out_of_fold": "patients: test predictions of all folds of a seed, metrics averaged over"
    f" seeds; {_WITHIN}; {_RESAMPLES}",
    "gains": f"patients: {_PAIRED}; p is two-sided, with Holm's correction over the targets (means"
    " of their sites) of one arm and comparator; not worse: the lower end of the interval is above"
    " minus the margin",
    "endpoint": f"patients: {_PAIRED}; the mean over targets of standardised gains: parts of the"
    " way from the best constant prediction to a perfect one",
}

Values = dict[CellName, float]


def study_statistics(study: Study, chosen: Mapping[str, str] | None = None) -> dict[str, Any]:
    """Compute every table of ``statistics.json`` from the study's results and predictions.

    Parameters
    ----------
    study : Study
    chosen : mapping of str to str, optional
        Task → its comparator (`gain_tables`).

    Returns
    -------
    dict
        ``summary``, ``paired``, ``intervals``, ``delong``, and those of `gain_tables`: each a
        ``unit`` and ``rows``.
    """
    compared = _compared(study)
    tables = {
        "summary": _summary(study),
        "paired": _paired(study),
        "intervals": [_interval(one) for one in study.predictions],
        "delong": list(_delong([one for one in study.predictions if one.arm in compared])),
        **gain_tables(study, chosen),
    }
    primary = {
        name: {"metric": space.primary, "better": space.primary_is_better_when}
        for name, space in study.spaces.items()
    }
    return {"format": FORMAT, "target": study.config["target"], "primary": primary} | {
        name: {"unit": UNITS[name], "rows": rows} for name, rows in tables.items()
    }


def _summary(study: Study) -> list[dict[str, Any]]:
    keys = ("arm", "backbone", "site", "task", "metric")
    values: dict[tuple[str, ...], dict[CellName, float | None]] = defaultdict(dict)
    for row in study.results:
        values[row.arm, row.cell.backbone, row.site, row.task, row.metric][row.cell] = row.value
    rows = []
    for key, found in values.items():
        names = dict(zip(keys, key, strict=True))
        defined = {cell: value for cell, value in found.items() if value is not None}
        means = study.tests.means(names["task"], names["site"], defined)
        mean = mean_of(means)
        counts = {"n": mean.n, "cells": len(defined), "undefined": len(found) - len(defined)}
        value = mean.value if means else None
        rows.append(names | {"mean": value, "error": mean.error} | counts)
    return rows


def _paired(study: Study) -> list[dict[str, Any]]:
    """Every pair of arms on each task's primary metric, per backbone and over all of them."""
    values: dict[tuple[str, str], dict[str, Values]] = defaultdict(lambda: defaultdict(dict))
    for row in study.results:
        if row.metric == study.spaces[row.task].primary and row.value is not None:
            values[row.task, row.site][row.arm][row.cell] = row.value
    families = [*study.backbones, ALL] if len(study.backbones) > 1 else study.backbones
    rows = []
    for (task, site), by_arm in values.items():
        names = {"site": site, "task": task, "metric": study.spaces[task].primary}
        for family in families:
            pairs = []
            for a, b in itertools.combinations(_compared(study), 2):
                cells = [c for c in by_arm[a] if c in by_arm[b] and family in (c.backbone, ALL)]
                if cells:
                    first, second = (
                        study.tests.means(task, site, {c: by_arm[arm][c] for c in cells})
                        for arm in (a, b)
                    )
                    found = asdict(compare_pairs(first, second))
                    pairs.append({"backbone": family} | names | {"arm_a": a, "arm_b": b} | found)
            rows += _corrected(pairs, ("p_t", "p_w"))
    return rows


def _interval(one: Predictions) -> dict[str, Any]:
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


def _delong(predictions: Sequence[Predictions]) -> Iterator[dict[str, Any]]:
    groups: dict[tuple[Any, ...], list[Predictions]] = defaultdict(list)
    for one in predictions:
        groups[tuple(one.key.values())].append(one)
    for group in groups.values():
        for column in group[0].space.binary_outputs:
            pairs = []
            for a, b in itertools.combinations(group, 2):
                if a.images != b.images:  # an arm that did not test them all
                    continue
                truth = a.truth[:, column]
                labelled = np.isfinite(truth)
                scores = a.predictions[labelled, column], b.predictions[labelled, column]
                if not all(np.isfinite(values).all() for values in scores):
                    continue
                where = a.patients[labelled], a.folds[labelled]
                found = compare_aurocs(truth[labelled] == 1, *scores, *where)
                if found is not None:
                    people = [len(np.unique(where[0][truth[labelled] == v])) for v in (0, 1)]
                    if not enough_to_compare(people):
                        found = replace(found, error=None, low=None, high=None, z=None, p=None)
                    name = a.space.prediction_names[column]
                    key = a.key | {"output": name, "arm_a": a.arm, "arm_b": b.arm}
                    pairs.append(key | asdict(found) | a.counts(labelled))
            yield from _corrected(pairs, ("p",))


def _corrected(rows: list[dict[str, Any]], names: Sequence[str]) -> list[dict[str, Any]]:
    """Add ``<name>_holm`` to the rows of one family."""
    for name in names:
        for row, adjusted in zip(rows, holm([row[name] for row in rows]), strict=True):
            row[f"{name}_holm"] = adjusted
    return rows


def _compared(study: Study) -> list[str]:
    """Arms that are tested against each other; a constant ranks nothing and is only the floor."""
    return [arm for arm in study.arms if arm not in study.arms_of("constant")]
