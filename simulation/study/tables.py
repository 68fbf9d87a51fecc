"""The files of a finished study: its tables, and what it was."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from mdmt.files import atomic_path, write_json
from mdmt.results.predictions import PREDICTION_COLUMNS
from mdmt.results.studies import RESULT_COLUMNS, read_study
from server.run import versions
from simulation.study.caveats import find_caveats
from simulation.study.cells import Finished
from simulation.study.config import StudyConfig
from simulation.study.data import StudyData
from simulation.study.statistics import study_statistics

__all__ = ["TABLES", "write_tables"]

FORMAT = 1
TABLES = ("results.csv", "predictions.csv", "statistics.json", "study.json")
"""Files that tell of a whole grid; there are none while a cell is missing."""


def write_tables(
    study: StudyConfig, out: Path, data: Mapping[int, StudyData], cells: Sequence[Finished]
) -> None:
    """Write ``results.csv``, ``predictions.csv``, ``statistics.json`` and ``study.json``.

    Parameters
    ----------
    study : StudyConfig
    out : Path
    data : mapping of int to StudyData
        By seed.
    cells : sequence of Finished
        In order of the grid, which is that of the tables.
    """
    results = [one.cell.key | row for one in cells for row in one.results]
    _write_csv(out / "results.csv", RESULT_COLUMNS, results)
    _join(out / "predictions.csv", [one.predictions for one in cells])
    written = read_study(out)
    statistics = study_statistics(written)
    write_json(out / "statistics.json", statistics)
    write_json(
        out / "study.json",
        {
            "format": FORMAT,
            "name": study.name,
            "config": study.model_dump(mode="json"),
            "versions": versions(),
            "data": _describe(data),
            "caveats": find_caveats(study, data, written, statistics),
            "cells": {
                "done": len(cells),
                "of": len(cells),
                "list": [
                    one.cell.key
                    | {"folder": str(Path("cells") / one.cell.path), "steps": one.steps}
                    | {"seconds": one.seconds}
                    for one in cells
                ],
            },
        },
    )


def _describe(data: Mapping[int, StudyData]) -> list[dict[str, Any]]:
    """Data and folds, once for the seeds that share them."""
    distinct = {id(opened): opened for opened in data.values()}
    return [
        {"seeds": [seed for seed, one in data.items() if one is opened]} | opened.describe()
        for opened in distinct.values()
    ]


def _write_csv(file: Path, columns: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> None:
    with (
        atomic_path(file) as temporary,
        temporary.open("w", newline="", encoding="utf-8") as stream,
    ):
        table = csv.DictWriter(stream, columns, lineterminator="\n")
        table.writeheader()
        table.writerows(rows)


def _join(file: Path, parts: Sequence[Path]) -> None:
    """Put tables with the columns of predictions below each other."""
    with atomic_path(file) as temporary, temporary.open("w", encoding="utf-8") as stream:
        stream.write(",".join(PREDICTION_COLUMNS) + "\n")
        for part in parts:
            with part.open(encoding="utf-8") as source:
                next(source)
                stream.writelines(source)
