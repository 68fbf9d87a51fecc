"""The files of a study, finished or not."""

from __future__ import annotations

import csv
import sys
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import yaml
from pydantic import TypeAdapter

from mdmt.errors import BadInput
from mdmt.files import read_json
from mdmt.runs import read_lines
from mdmt.tasks import AnyTask, Task
from simulation.report.curves import Cell

__all__ = ["CellName", "Result", "Study", "read_study"]


class CellName(NamedTuple):
    """A cell of the grid without its arm: arms are compared within it."""

    backbone: str
    fold: str
    seed: str


class Result(NamedTuple):
    """A row of ``results.csv``; `value` is None where the metric is undefined."""

    arm: str
    cell: CellName
    site: str
    task: str
    metric: str
    value: float | None
    n: int


Predictions = dict[CellName, Cell]


@dataclass(frozen=True)
class Study:
    """What a study wrote.

    Attributes
    ----------
    folder : Path
    config : dict
        ``study.yaml``.
    facts : dict
        ``study.json``: versions, sites, folds, caveats; empty until all cells are finished.
    spaces : mapping of str to Task
        Label space of each task.
    results : list of Result
        Those of the finished cells, if not all are.
    predictions : mapping
        (arm, site, task) → cell → test predictions. Classes are columns of 0 and 1.
    statistics : dict or None
        ``statistics.json``; None until all cells are finished.
    cells : mapping
        (arm, cell) → what ``cell.json`` says, and the lines of its history as ``history``.
    """

    folder: Path
    config: Mapping[str, Any]
    facts: Mapping[str, Any]
    spaces: Mapping[str, Task]
    results: Sequence[Result]
    predictions: Mapping[tuple[str, str, str], Predictions]
    statistics: Mapping[str, Any] | None
    cells: Mapping[tuple[str, CellName], Mapping[str, Any]]

    @property
    def arms(self) -> list[str]:
        """Arms of the configuration, in its order."""
        return [arm.get("name") or arm["kind"] for arm in self.config["arms"]]

    @property
    def reference(self) -> str | None:
        """The arm that others are compared with: ``local``, if the study has it."""
        return "local" if "local" in self.arms else None

    def values(self, arm: str, site: str, task: str, metric: str) -> dict[CellName, float]:
        """Defined values of one metric by cell."""
        return {
            row.cell: row.value
            for row in self.results
            if (row.arm, row.site, row.task, row.metric) == (arm, site, task, metric)
            and row.value is not None
        }

    def tested(self) -> list[tuple[str, str]]:
        """Tasks and the sites that test them, in the order of the configuration and by name."""
        found = {(row.task, row.site) for row in self.results}
        order = list(self.spaces)
        return sorted(found, key=lambda pair: (order.index(pair[0]), pair[1]))


def read_study(folder: Path) -> Study:
    """Read a study's folder.

    Raises
    ------
    BadInput
        There is no study, or one of its files is damaged.
    """
    config, spaces = _config(folder / "study.yaml")
    whole = (folder / "results.csv").is_file()
    cells = {file.parent: _json(file) for file in sorted(folder.glob("cells/**/cell.json"))}
    tables = [folder / "predictions.csv"] if whole else [c / "predictions.csv" for c in cells]
    facts, statistics = (
        _json(file) if file.is_file() else None
        for file in (folder / "study.json", folder / "statistics.json")
    )
    return Study(
        folder=folder,
        config=config,
        facts=facts or {},
        spaces=spaces,
        results=list(
            _results(folder / "results.csv", spaces)
            if whole
            else _results_of_cells(cells.values(), spaces)
        ),
        predictions=_predictions(tables, spaces),
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


def _json(file: Path) -> Any:
    try:
        return read_json(file)
    except ValueError as error:
        raise BadInput(f"{file}: damaged: {error}") from error


def _name(row: Mapping[str, Any]) -> CellName:
    return CellName(str(row["backbone"]), str(row["fold"]), str(row["seed"]))


def _results_of_cells(
    cells: Iterable[Mapping[str, Any]], spaces: Mapping[str, Task]
) -> Iterator[Result]:
    for cell in cells:
        for row in cell["results"]:
            if row["task"] in spaces:
                value, n = row["value"], int(row["n"])
                arm, name = cell["arm"], _name(cell)
                yield Result(arm, name, row["site"], row["task"], row["metric"], value, n)


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


def _results(file: Path, spaces: Mapping[str, Task]) -> Iterator[Result]:
    columns = ("arm", "backbone", "fold", "seed", "site", "task", "metric", "value", "n")
    for row in _rows(file, columns):
        _known(file, row["task"], spaces)
        yield Result(
            row["arm"],
            _name(row),
            row["site"],
            row["task"],
            row["metric"],
            _number(file, row["value"]),
            int(_number(file, row["n"]) or 0),
        )


def _predictions(
    files: Iterable[Path], spaces: Mapping[str, Task]
) -> dict[tuple[str, str, str], Predictions]:
    columns = (
        *("arm", "backbone", "fold", "seed", "site", "task"),
        *("image", "patient", "output", "target", "prediction"),
    )
    texts: defaultdict[tuple[str, str, str], defaultdict[CellName, list[tuple[str, ...]]]]
    texts = defaultdict(lambda: defaultdict(list))
    for file in files:
        for row in _rows(file, columns):
            _known(file, row["task"], spaces)
            rows = texts[row["arm"], row["site"], row["task"]][_name(row)]
            rows.append((str(file), *(row[name] for name in columns[6:])))
    return {
        key: {name: _cell(spaces[key[2]], rows) for name, rows in cells.items()}
        for key, cells in texts.items()
    }


def _cell(space: Task, rows: list[tuple[str, ...]]) -> Cell:
    """Arrays of one cell's rows, a column per output or class.

    Of two classes the rows tell the second alone; the first is what is missing to 1.
    """
    patients = {image: patient for _, image, patient, *_ in rows}
    row_of = {image: row for row, image in enumerate(patients)}
    column_of = {name: column for column, name in enumerate(space.prediction_names)}
    targets, predictions = np.full((2, len(row_of), len(column_of)), np.nan)
    for file, image, _, output, target, prediction in rows:
        if output not in column_of:
            raise BadInput(f"{file}: the output {output} is none of {', '.join(column_of)}")
        where = row_of[image], column_of[output]
        for values, text in ((targets, target), (predictions, prediction)):
            value = _number(Path(file), text)
            values[where] = np.nan if value is None else value
    if space.kind == "classification" and len(column_of) == 2:
        for values in (targets, predictions):
            values[:, 0] = 1 - values[:, 1]
    return Cell(np.array(list(patients)), np.array(list(patients.values())), targets, predictions)
