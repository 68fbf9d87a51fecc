"""Reading a study's folder. Of an unfinished study its finished cells are read."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from pydantic import TypeAdapter

from mdmt.errors import BadInput
from mdmt.results.csv_tables import known_task, read_rows, to_number
from mdmt.results.predictions import ALL, CellName, Predictions, TestSets, read_predictions
from mdmt.results.runs import read_lines, read_object
from mdmt.tasks import AnyTask, Task

RESULT_COLUMNS = ("arm", "backbone", "fold", "seed", "site", "task", "metric", "value", "n")
_CELL_KEYS = ("arm", "backbone", "fold", "seed", "results", "steps", "seconds")
_STUDY_KEYS = ("versions", "data", "caveats")


class Result(NamedTuple):
    """A row of ``results.csv``. `value` is None if the metric is undefined."""

    arm: str
    cell: CellName
    site: str
    task: str
    metric: str
    value: float | None
    n: int


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
        Those of the finished cells if some are not finished; with the means over all sites.
    predictions : list of Predictions
    tests : TestSets
        Which cells test the same images.
    statistics : dict or None
        ``statistics.json``; None until all cells are finished.
    cells : mapping
        (arm, cell) → content of ``cell.json``, and the lines of its history as ``history``.
    """

    folder: Path
    config: Mapping[str, Any]
    facts: Mapping[str, Any]
    spaces: Mapping[str, Task]
    results: Sequence[Result]
    predictions: Sequence[Predictions]
    tests: TestSets
    statistics: Mapping[str, Any] | None
    cells: Mapping[tuple[str, CellName], Mapping[str, Any]]

    @property
    def arms(self) -> list[str]:
        """Arms of the configuration, in its order."""
        return [arm.get("name") or arm["kind"] for arm in self.config["arms"]]

    def arms_of(self, *kinds: str) -> list[str]:
        """Return the arms of these kinds, for any names."""
        kind_of = dict(zip(self.arms, self.config["arms"], strict=True))
        return [name for name, arm in kind_of.items() if arm["kind"] in kinds]

    @property
    def reference(self) -> str | None:
        """The arm that other arms are compared with: the first in which a site trains alone."""
        return next(iter(self.arms_of("local")), None)

    @property
    def backbones(self) -> list[str]:
        """Backbones that have results, in the order of the study."""
        return list(dict.fromkeys(row.cell.backbone for row in self.results))

    def statistic(self, table: str, **wanted: str | int) -> list[dict[str, Any]]:
        """Rows of a table of ``statistics.json`` that have the `wanted` entries."""
        rows = (self.statistics or {}).get(table, {}).get("rows", [])
        return [row for row in rows if all(row[key] == wanted[key] for key in wanted)]

    def unit(self, table: str) -> str:
        """Unit of analysis of a table of ``statistics.json``, as a sentence."""
        unit = (self.statistics or {}).get(table, {}).get("unit", "")
        return f"Unit of analysis: {unit}." if unit else ""

    def values(self, arm: str, site: str, task: str, metric: str) -> dict[CellName, float]:
        """Defined values of one metric by cell."""
        return {
            row.cell: row.value
            for row in self.results
            if (row.arm, row.site, row.task, row.metric) == (arm, site, task, metric)
            and row.value is not None
        }

    def elsewhere(self, arm: str, task: str) -> dict[tuple[str, str], dict[CellName, float]]:
        """Defined values of the primary metric of a site's model at another site, by both."""
        found: dict[tuple[str, str], dict[CellName, float]] = defaultdict(dict)
        for (name, cell), content in self.cells.items():
            for row in content.get("elsewhere", ()) if name == arm else ():
                if row["task"] == task and row["value"] is not None:
                    found[row["model"], row["site"]][cell] = row["value"]
        return found

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
        The folder contains no study, or one of its files is damaged.
    """
    config, spaces = _config(folder / "study.yaml")
    whole = (folder / "results.csv").is_file()
    cells = dict(_cells(folder, config))
    tables = [folder / "predictions.csv"] if whole else [c / "predictions.csv" for c in cells]
    predictions = read_predictions(tables, spaces)
    results = _results(folder, spaces) if whole else _results_of_cells(cells.values(), spaces)
    return Study(
        folder=folder,
        config=config,
        facts=read_object(folder / "study.json", *_STUDY_KEYS) or {},
        spaces=spaces,
        results=with_all_sites(results),
        predictions=predictions,
        tests=TestSets(predictions, redrawn=bool(config.get("redraw"))),
        statistics=read_object(folder / "statistics.json"),
        cells={
            (cell["arm"], _name(cell)): cell | {"history": read_lines(path / "history.jsonl")}
            for path, cell in cells.items()
        },
    )


def fraction_folder(folder: Path, fraction: float) -> Path:
    """Folder of the cells of a study that train on a fraction of the patients."""
    return folder / f"fraction-{fraction:g}" if fraction < 1 else folder


def with_all_sites(results: Iterable[Result]) -> list[Result]:
    """Add the mean over sites, weighted by their labelled test images, if there are several.

    An arm that did not test every site of the task in a cell has none there: means over other
    sites cannot be compared.
    """
    rows = list(results)
    by_cell: dict[tuple[str, CellName, str, str], list[Result]] = defaultdict(list)
    sites: dict[str, set[str]] = defaultdict(set)
    for row in rows:
        by_cell[row.arm, row.cell, row.task, row.metric].append(row)
        sites[row.task].add(row.site)
    for (arm, cell, task, metric), group in by_cell.items():
        if len(group) == 1 or len(group) < len(sites[task]):
            continue
        total = sum(row.n for row in group)
        values = [row.value * row.n for row in group if row.value is not None]
        mean = sum(values) / total if total > 0 and len(values) == len(group) else None
        rows.append(Result(arm, cell, ALL, task, metric, mean, total))
    return rows


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


def _cells(folder: Path, config: Mapping[str, Any]) -> Iterator[tuple[Path, dict[str, Any]]]:
    """Yield the finished cells of the grid. The folder can contain cells of an earlier grid."""
    arms = {arm.get("name") or arm["kind"] for arm in config["arms"]}
    backbones = {one.get("name") or one["backbone"] for one in config.get("backbones", ())}
    backbones = backbones or {config["federation"]["model"]["backbone"]}
    seeds = set(config.get("seeds", (0,)))
    for file in sorted(folder.glob("cells/[!.]*/*/fold-*/seed-*/cell.json")):
        cell = read_object(file, *_CELL_KEYS) or {}
        grid = ((arms, cell["arm"]), (backbones, cell["backbone"]), (seeds, cell["seed"]))
        if all(value in known for known, value in grid):
            yield file.parent, cell


def _name(cell: Mapping[str, Any]) -> CellName:
    return CellName(cell["backbone"], cell["fold"], cell["seed"])


def _results_of_cells(
    cells: Iterable[Mapping[str, Any]], spaces: Mapping[str, Task]
) -> Iterator[Result]:
    for cell in cells:
        for row in cell["results"]:
            if row["task"] in spaces:
                yield Result(cell["arm"], _name(cell), *(row[key] for key in RESULT_COLUMNS[4:]))


def _results(folder: Path, spaces: Mapping[str, Task]) -> Iterator[Result]:
    file = folder / "results.csv"
    for row in read_rows(file, RESULT_COLUMNS):
        known_task(file, row["task"], spaces)
        value, n, seed = (to_number(file, row[name]) for name in ("value", "n", "seed"))
        cell = CellName(row["backbone"], row["fold"], int(seed or 0))
        names = row["site"], row["task"], row["metric"]
        yield Result(row["arm"], cell, *names, value, int(n or 0))
