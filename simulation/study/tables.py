"""The files of a finished study: its tables, and what was run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mdmt.files import write_json
from mdmt.results.csv_tables import read_rows, write_rows
from mdmt.results.predictions import PREDICTION_COLUMNS
from mdmt.results.studies import RESULT_COLUMNS, read_study
from server.run import versions
from simulation.study.caveats import find_caveats
from simulation.study.cells import Cell
from simulation.study.config import StudyConfig
from simulation.study.data import StudyData
from simulation.study.statistics import study_statistics

__all__ = ["TABLES", "write_tables"]

FORMAT = 1
TABLES = ("results.csv", "predictions.csv", "statistics.json", "study.json")
"""Files of a whole grid; there are none while a cell is missing."""


def write_tables(
    study: StudyConfig,
    out: Path,
    data: Mapping[int, StudyData],
    cells: Sequence[tuple[Cell, Mapping[str, Any]]],
) -> None:
    """Write ``results.csv``, ``predictions.csv``, ``statistics.json`` and ``study.json``.

    Parameters
    ----------
    study : StudyConfig
    out : Path
    data : mapping of int to StudyData
        By seed.
    cells : sequence of (Cell, dict)
        With their ``cell.json``, in order of the grid, which is that of the tables.
    """
    results = [cell.key | row for cell, saved in cells for row in saved["results"]]
    write_rows(out / "results.csv", RESULT_COLUMNS, results)
    folders = [Path("cells") / cell.path for cell, _ in cells]
    files = (out / folder / "predictions.csv" for folder in folders)
    rows = (row for file in files for row in read_rows(file, PREDICTION_COLUMNS))
    write_rows(out / "predictions.csv", PREDICTION_COLUMNS, rows)
    written = read_study(out)
    statistics = study_statistics(written)
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
            "caveats": find_caveats(study, data, written, statistics),
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
