"""A study as its files tell it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from mdmt.report.curves import Predictions
from mdmt.tasks import Task
from simulation.study.outcomes import TestSets

__all__ = ["CellName", "Result", "Study"]


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
        (arm, site, task) → (backbone, seed) → test predictions of all folds together. Classes are
        columns of 0 and 1.
    statistics : dict or None
        ``statistics.json``; None until all cells are finished.
    tests : TestSets
        Which cells test the same images.
    cells : mapping
        (arm, cell) → what ``cell.json`` says, and the lines of its history as ``history``.
    """

    folder: Path
    config: Mapping[str, Any]
    facts: Mapping[str, Any]
    spaces: Mapping[str, Task]
    results: Sequence[Result]
    predictions: Mapping[tuple[str, str, str], Mapping[tuple[str, str], Predictions]]
    statistics: Mapping[str, Any] | None
    tests: TestSets
    cells: Mapping[tuple[str, CellName], Mapping[str, Any]]

    @property
    def arms(self) -> list[str]:
        """Arms of the configuration, in its order."""
        return [arm.get("name") or arm["kind"] for arm in self.config["arms"]]

    def arms_of(self, *kinds: str) -> list[str]:
        """Arms of these kinds, whatever they are called."""
        kind_of = dict(zip(self.arms, self.config["arms"], strict=True))
        return [name for name, arm in kind_of.items() if arm["kind"] in kinds]

    @property
    def reference(self) -> str | None:
        """The arm that others are compared with: the first in which a site learns alone."""
        return next(iter(self.arms_of("local")), None)

    @property
    def backbones(self) -> list[str]:
        """Backbones that have results, in the order of the study."""
        return list(dict.fromkeys(row.cell.backbone for row in self.results))

    def statistic(self, table: str, **wanted: str) -> list[dict[str, Any]]:
        """Rows of a table of ``statistics.json`` that have the `wanted` entries."""
        rows = (self.statistics or {}).get(table, {}).get("rows", [])
        return [row for row in rows if all(str(row[key]) == wanted[key] for key in wanted)]

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

    def tested(self) -> list[tuple[str, str]]:
        """Tasks and the sites that test them, in the order of the configuration and by name."""
        found = {(row.task, row.site) for row in self.results}
        order = list(self.spaces)
        return sorted(found, key=lambda pair: (order.index(pair[0]), pair[1]))
