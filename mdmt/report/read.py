"""Reading the files of a study, finished or not."""

from __future__ import annotations

import csv
import sys
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from pydantic import TypeAdapter

from mdmt.errors import BadInput
from mdmt.files import read_json
from mdmt.report.curves import Predictions
from mdmt.report.records import CellName, Result, Study
from mdmt.runs import read_lines
from mdmt.tasks import AnyTask, Task
from simulation.study.outcomes import TestSets
from simulation.study.statistics import with_all_sites
from simulation.study.tables import RESULT_COLUMNS

__all__ = ["read_study"]


def read_study(folder: Path) -> Study:
    """Read a study's folder.

    Raises
    ------
    BadInput
        There is no study, or one of its files is damaged.
    """
    config, spaces = _config(folder / "study.yaml")
    whole = (folder / "results.csv").is_file()
    cells = dict(_cells(folder, config))
    tables = [folder / "predictions.csv"] if whole else [c / "predictions.csv" for c in cells]
    facts, statistics = (
        _json(folder / name, *keys) if (folder / name).is_file() else None
        for name, keys in (("study.json", _STUDY_KEYS), ("statistics.json", ()))
    )
    predictions, images = _predictions(tables, spaces)
    return Study(
        folder=folder,
        config=config,
        facts=facts or {},
        spaces=spaces,
        results=[
            Result(row["arm"], _name(row), *(row[key] for key in Result._fields[2:]))
            for row in with_all_sites(
                _results(folder / "results.csv", spaces)
                if whole
                else _results_of_cells(cells.values(), spaces)
            )
        ],
        predictions=predictions,
        tests=TestSets(images, redrawn=bool(config.get("redraw"))),
        statistics=statistics,
        cells={
            (cell["arm"], _name(cell)): cell | {"history": read_lines(file / "history.jsonl")}
            for file, cell in cells.items()
        },
    )


def _config(file: Path) -> tuple[dict[str, Any], dict[str, Task]]:
    try:
        config = yaml.safe_load(file.read_text(encoding="utf-8"))
        spaces = {
            name: TypeAdapter[Task](AnyTask).validate_python(task["space"])
            for name, task in config["federation"]["tasks"].items()
        }
    except FileNotFoundError as error:
        raise BadInput(f"{file.parent}: not a study; it has no study.yaml") from error
    except (yaml.YAMLError, KeyError, TypeError, AttributeError, ValueError) as error:
        raise BadInput(f"{file}: damaged: it does not say which tasks there are") from error
    return config, spaces


_STUDY_KEYS = ("versions", "data", "caveats")
_CELL_KEYS = ("arm", "backbone", "fold", "seed", "results", "steps", "seconds")


def _json(file: Path, *keys: str) -> dict[str, Any]:
    """Read a JSON object that has at least these keys."""
    try:
        found = read_json(file)
    except ValueError as error:
        raise BadInput(f"{file}: damaged: {error}") from error
    missing = [key for key in keys if key not in found] if isinstance(found, dict) else ["object"]
    if missing:
        raise BadInput(f"{file}: damaged: it has no {missing[0]}")
    return dict(found)


def _cells(folder: Path, config: Mapping[str, Any]) -> Iterator[tuple[Path, dict[str, Any]]]:
    """Yield the finished cells of the grid; the folder may hold some that left it."""
    arms = {arm.get("name") or arm["kind"] for arm in config["arms"]}
    backbones = {one.get("name") or one["backbone"] for one in config.get("backbones", ())}
    backbones = backbones or {config["federation"]["model"]["backbone"]}
    seeds = set(config.get("seeds", (0,)))
    for file in sorted(folder.glob("cells/[!.]*/*/fold-*/seed-*/cell.json")):
        cell = _json(file, *_CELL_KEYS)
        grid = ((arms, cell["arm"]), (backbones, cell["backbone"]), (seeds, cell["seed"]))
        if all(value in known for known, value in grid):
            yield file.parent, cell


def _name(row: Mapping[str, Any]) -> CellName:
    return CellName(str(row["backbone"]), str(row["fold"]), str(row["seed"]))


def _results_of_cells(
    cells: Iterable[Mapping[str, Any]], spaces: Mapping[str, Task]
) -> Iterator[dict[str, Any]]:
    for cell in cells:
        names = {key: cell[key] for key in ("arm", "backbone", "fold", "seed")}
        yield from (names | row for row in cell["results"] if row["task"] in spaces)


def _rows(file: Path, columns: Sequence[str]) -> Iterator[dict[str, str]]:
    """Rows of a CSV file, nothing if there is none; equal texts are one object."""
    if not file.exists():
        return
    with file.open(newline="", encoding="utf-8") as stream:
        reader = csv.DictReader(stream)
        missing = [name for name in columns if name not in (reader.fieldnames or ())]
        if missing:
            raise BadInput(f"{file}: no column {missing[0]}; expected {', '.join(columns)}")
        for row in reader:
            if None in row.values() or None in row:
                raise BadInput(f"{file}: line {reader.line_num} is not complete")
            yield {name: sys.intern(row[name]) for name in columns}


def _number(file: Path, text: str) -> float | None:
    if not text:
        return None
    try:
        return float(text)
    except ValueError as error:
        raise BadInput(f"{file}: {text} is not a number") from error


def _known(file: Path, task: str, spaces: Mapping[str, Task]) -> None:
    if task not in spaces:
        raise BadInput(f"{file}: the task {task} is none of study.json's {', '.join(spaces)}")


def _results(file: Path, spaces: Mapping[str, Task]) -> Iterator[dict[str, Any]]:
    for row in _rows(file, RESULT_COLUMNS):
        _known(file, row["task"], spaces)
        value, n = (_number(file, row[name]) for name in ("value", "n"))
        yield row | {"value": value, "n": int(n or 0)}


def _predictions(
    files: Iterable[Path], spaces: Mapping[str, Task]
) -> tuple[
    dict[tuple[str, str, str], dict[tuple[str, str], Predictions]],
    dict[tuple[str, str, str, str], set[str]],
]:
    """Predictions of every arm, site and task; and which images a fold and seed test there."""
    images: defaultdict[tuple[str, str, str, str], set[str]] = defaultdict(set)
    columns = (
        *("arm", "backbone", "seed", "site", "task"),
        *("fold", "image", "patient", "output", "target", "prediction"),
    )
    texts: defaultdict[tuple[str, str, str], defaultdict[tuple[str, str], list[tuple[str, ...]]]]
    texts = defaultdict(lambda: defaultdict(list))
    for file in files:
        for row in _rows(file, columns):
            _known(file, row["task"], spaces)
            rows = texts[row["arm"], row["site"], row["task"]][row["backbone"], row["seed"]]
            rows.append((str(file), *(row[name] for name in columns[5:])))
            images[row["task"], row["site"], row["fold"], row["seed"]].add(row["image"])
    predictions = {
        key: {name: _tested(spaces[key[2]], rows) for name, rows in found.items()}
        for key, found in texts.items()
    }
    return predictions, images


def _tested(space: Task, rows: list[tuple[str, ...]]) -> Predictions:
    """Arrays of the rows of one model's folds, a column per output or class.

    Of two classes the rows tell the second alone; the first is what is missing to 1.
    """
    patients = {(fold, image): patient for _, fold, image, patient, *_ in rows}
    row_of = {image: row for row, image in enumerate(patients)}
    column_of = {name: column for column, name in enumerate(space.prediction_names)}
    targets, predictions = np.full((2, len(row_of), len(column_of)), np.nan)
    for file, fold, image, _, output, target, prediction in rows:
        if output not in column_of:
            raise BadInput(f"{file}: the output {output} is none of {', '.join(column_of)}")
        where = row_of[fold, image], column_of[output]
        for values, text in ((targets, target), (predictions, prediction)):
            value = _number(Path(file), text)
            values[where] = np.nan if value is None else value
    if space.kind == "classification" and len(column_of) == 2:
        for values in (targets, predictions):
            values[:, 0] = 1 - values[:, 1]
    people, folds = np.array(list(patients.values())), np.array([fold for fold, _ in patients])
    return Predictions(people, folds, targets, predictions)
