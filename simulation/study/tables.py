"""The files of a finished study: its tables, and what was run."""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mdmt.files import write_json
from mdmt.results.csv_tables import read_rows, write_rows
from mdmt.results.predictions import ALL, PREDICTION_COLUMNS
from mdmt.results.studies import RESULT_COLUMNS, Study, read_study
from server.run import versions
from simulation.study.cells import Cell
from simulation.study.config import StudyConfig
from simulation.study.data import StudyData
from simulation.study.stages import Stage
from simulation.study.statistics import study_statistics

FORMAT = 1
TABLES = (
    *("results.csv", "predictions.csv", "cross_site.csv"),
    *("statistics.json", "study.json"),
)
"""Files of a whole grid; there are none while a cell is missing."""


def write_tables(stage: Stage, cells: Sequence[tuple[Cell, Mapping[str, Any]]]) -> None:
    """Write ``results.csv``, ``predictions.csv``, ``statistics.json`` and ``study.json``.

    Parameters
    ----------
    stage : Stage
    cells : sequence of (Cell, dict)
        With their ``cell.json``, in order of the grid, which is that of the tables.
    """
    study, out, data = stage.study, stage.out, stage.data
    results = [cell.key | row for cell, saved in cells for row in saved["results"]]
    write_rows(out / "results.csv", RESULT_COLUMNS, results)
    crossed = [cell.key | row for cell, saved in cells for row in saved.get("elsewhere", ())]
    if crossed:
        write_rows(out / "cross_site.csv", list(crossed[0]), crossed)
    folders = [Path("cells") / cell.path for cell, _ in cells]
    files = (out / folder / "predictions.csv" for folder in folders)
    rows = (row for file in files for row in read_rows(file, PREDICTION_COLUMNS))
    write_rows(out / "predictions.csv", PREDICTION_COLUMNS, rows)
    written = read_study(out)
    statistics = study_statistics(written, stage.comparators)
    write_json(out / "statistics.json", statistics)
    distinct = {id(opened): opened for opened in data.values()}
    write_json(
        out / "study.json",
        {
            "format": FORMAT,
            "name": study.name,
            "config": study.model_dump(mode="json"),
            "versions": versions(),
            "data": [
                {"seeds": [seed for seed, one in data.items() if one is opened]} | opened.describe()
                for opened in distinct.values()
            ],
            "caveats": [
                *stage.notes,
                *find_caveats(study, data, written, statistics),
                *steps_caveats(study, [saved for _, saved in cells]),
            ],
            "cells": {
                "done": len(cells),
                "of": len(cells),
                "list": [
                    cell.key | {"folder": str(folder)} | {k: saved[k] for k in ("steps", "seconds")}
                    for (cell, saved), folder in zip(cells, folders, strict=True)
                ],
            },
        },
    )


FEW_PATIENTS = 100
"""Tested patients below which an interval of an AUROC is hardly narrower than ±0.1."""
CLOSE = 0.02
"""Difference in AUROC or MAE below which a model does not beat the metadata."""


def find_caveats(
    study: StudyConfig, data: Mapping[int, StudyData], written: Study, statistics: Mapping[str, Any]
) -> list[str]:
    """Return the caveats of a finished study, one sentence each."""
    first = data[study.seeds[0]]
    found = [
        *_shuffle_caveat(study),
        *_data_caveats(study, first),
        *shortcut_caveats(study, statistics),
    ]
    if len(study.seeds) > 1 and not study.redraw:
        found.append(
            f"the {len(study.seeds)} seeds share their images: the spread over seeds says nothing"
            " about other patients"
        )
    metric = study.federation.space(study.target).primary
    compared = [
        row.value
        for row in written.results
        if (row.task, row.metric) == (study.target, metric) and row.site != ALL
    ]
    if undefined := compared.count(None):
        found.append(f"{undefined} of {len(compared)} values of {metric} are undefined")
    return found


def _shuffle_caveat(study: StudyConfig) -> Iterator[str]:
    if study.shuffle is not None:
        yield f"the labels of {study.shuffle} that models learn from were shuffled: a control"


def _data_caveats(study: StudyConfig, data: StudyData) -> Iterator[str]:
    """Yield what is shared between sites, what is small, and what is repeated."""
    manifests = sorted(data.manifests.items())
    for (a, first), (b, second) in itertools.combinations(manifests, 2):
        if shared := set(first.patients.tolist()) & set(second.patients.tolist()):
            both = f"{len(shared)} patients are both at {a} and at {b}"
            yield f"{both}; every fold keeps each on one side"
    for site in study.target_sites():
        manifest = data.manifests[site]
        tested = np.logical_or.reduce([fold.splits[site] == "test" for fold in data.folds])
        labelled = np.isfinite(manifest.targets[study.target]).any(axis=1)
        patients = len(np.unique(manifest.patients[tested & labelled]))
        if patients < FEW_PATIENTS:
            yield f"{study.target} is tested on {patients} patients at {site}: intervals are wide"
    for site, manifest in manifests:
        patients = len(np.unique(manifest.patients))
        if patients < len(manifest):
            images = f"{site} has {len(manifest)} images of {patients} patients"
            yield f"{images}: tests over patients cluster them"


def steps_caveats(study: StudyConfig, cells: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """Yield where arms made different numbers of steps with images of the target."""
    for site in study.target_sites():
        by_arm = {cell["arm"]: cell["steps"][site] for cell in cells if site in cell["steps"]}
        if len(set(by_arm.values())) > 1:
            numbers = ", ".join(f"{arm} {steps}" for arm, steps in by_arm.items())
            yield f"{site}: arms differ in steps with images of {study.target}: {numbers}"


def shortcut_caveats(study: StudyConfig, statistics: Mapping[str, Any]) -> Iterator[str]:
    """Yield where columns of the table do about as well as the best arm that uses images."""
    blind = {arm.label for arm in study.arms if arm.kind in ("constant", "metadata")}
    shortcuts = [arm.label for arm in study.arms if arm.kind == "metadata"]
    metric = statistics["primary"][study.target]["metric"]
    sign = 1 if statistics["primary"][study.target]["better"] == "higher" else -1
    means: dict[str, dict[str, float]] = {}
    for row in statistics["summary"]["rows"]:
        if (row["task"], row["metric"]) == (study.target, metric) and row["mean"] is not None:
            by_arm = means.setdefault(f"{row['site']} with {row['backbone']}", {})
            by_arm[row["arm"]] = row["mean"]
    for where, by_arm in means.items():
        seeing = {arm: sign * mean for arm, mean in by_arm.items() if arm not in blind}
        best = max(seeing, key=seeing.__getitem__, default=None)
        for shortcut in shortcuts:
            if best is None or shortcut not in by_arm:
                continue
            if sign * by_arm[shortcut] > seeing[best] - CLOSE:
                yield (
                    f"{where}: {shortcut} alone gives {metric} {by_arm[shortcut]:.3f}, the best arm"
                    f" that sees images ({best}) {by_arm[best]:.3f}: a shortcut may explain it"
                )
