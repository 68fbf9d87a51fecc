"""A study's results as tables: arms by metrics, arms by backbones, arms by patients."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mdmt.report.page import Table
from mdmt.report.words import at, count, metric_name, size
from mdmt.results.runs import format_metric
from mdmt.results.statistics import mean_and_error
from mdmt.results.studies import Study

__all__ = [
    "Mean",
    "arm_table",
    "backbone_table",
    "cost_table",
    "mean_of",
    "patient_table",
]


@dataclass(frozen=True)
class Mean:
    """Mean of n values, its standard error and Student's 95 % interval; None for n < 2."""

    value: float
    error: float | None
    low: float | None
    high: float | None
    n: int

    def __str__(self) -> str:
        text = f"{self.value:.3f}" + ("" if self.error is None else f" ± {self.error:.3f}")
        return text.replace("-", "−")

    @property
    def interval(self) -> str:
        """The interval in brackets."""
        if self.low is None or self.high is None:
            return "-"
        return f"[{self.low:.3f}, {self.high:.3f}]".replace("-", "−")


def mean_of(values: Sequence[float]) -> Mean | None:
    """Mean of (n,) values with its standard error s/√n; None without any.

    Examples
    --------
    >>> str(mean_of([1.0, 2.0, 3.0]))
    '2.000 ± 0.577'
    """
    from scipy.stats import t

    if not values:
        return None
    (mean, error), n = mean_and_error(values), len(values)
    if error is None:
        return Mean(mean, None, None, None, n)
    half = float(t.ppf(0.975, n - 1)) * error
    return Mean(mean, error, mean - half, mean + half, n)


def arm_table(study: Study, task: str, site: str, backbone: str) -> Table:
    """A row per arm, a column per metric: mean ± standard error over the cells of one backbone."""
    shown = study.spaces[task].shown_metrics
    rows = []
    for arm in study.arms:
        means = [
            mean_of(_of_backbone(study, arm, site, task, metric, backbone)) for metric in shown
        ]
        if not any(means):
            continue
        cells = ["undefined" if mean is None else str(mean) for mean in means]
        n = max(mean.n for mean in means if mean)
        rows.append([arm, *cells, str(n)])
    header = [f"{metric_name(name)}\n({better} is better)" for name, better in shown.items()]
    return Table(
        f"{at(task, site)}, {backbone}: {_support(study, task, site)}",
        ["arm", *header, "test\nsets"],
        rows,
        note="Unit of analysis: the cell, one fold with one seed; cells that test the same images"
        " are averaged first and count as one test set. Mean ± standard error over test sets."
        " Folds share training images, so these errors are somewhat too small.",
    )


def patient_table(study: Study, task: str, site: str, backbone: str) -> Table | None:
    """A row per arm, a column per seed: the primary metric with its patient-level interval."""
    found = study.statistic("intervals", task=task, site=site, backbone=backbone)
    if not found:
        return None
    seeds = list(dict.fromkeys(row["seed"] for row in found))
    of = {(row["arm"], row["seed"]): row for row in found}
    rows = []
    for arm in study.arms:
        cells = [of.get((arm, seed)) for seed in seeds]
        if any(cells):
            rows.append([arm, *("-" if c is None else _with_interval(c) for c in cells)])
    name = metric_name(study.spaces[task].primary)
    tested = f"{count(found[0]['images'], 'image')} of {count(found[0]['patients'], 'patient')}"
    return Table(
        f"{at(task, site)}, {backbone}: {name} over all folds, {tested}",
        ["arm", *(f"seed {seed}" for seed in seeds)],
        rows,
        note=study.unit("intervals"),
    )


def _with_interval(row: Mapping[str, Any]) -> str:
    """Write the value of a row with its interval, where it has them."""
    return format_metric({"x": row["value"], "x_low": row["low"], "x_high": row["high"]}, "x")


def backbone_table(study: Study, task: str, site: str) -> Table:
    """A row per backbone, a column per arm: the primary metric; the last row sums them up."""
    space = study.spaces[task]
    arms = [arm for arm in study.arms if study.values(arm, site, task, space.primary)]
    rows = []
    means: dict[str, list[float]] = {arm: [] for arm in arms}
    for backbone in study.backbones:
        row = [backbone]
        for arm in arms:
            mean = mean_of(_of_backbone(study, arm, site, task, space.primary, backbone))
            row.append("-" if mean is None else str(mean))
            means[arm] += [] if mean is None else [mean.value]
        rows.append(row)
    rows.append(["mean of backbones", *(str(mean_of(means[arm]) or "-") for arm in arms)])
    return Table(
        f"{at(task, site)}: {metric_name(space.primary)} ({space.primary_is_better_when} is better)"
        " of each backbone",
        ["backbone", *arms],
        rows,
        note="Unit of analysis: in a backbone's row the test set (cells that test the same images"
        " are averaged first), in the last row the backbone. Mean ± standard error.",
        emphasised=frozenset({len(rows) - 1}),
    )


def _of_backbone(
    study: Study, arm: str, site: str, task: str, metric: str, backbone: str
) -> list[float]:
    """Means of the test sets of one backbone."""
    values = study.values(arm, site, task, metric)
    cells = {cell: value for cell, value in values.items() if cell.backbone == backbone}
    return study.tests.means(task, site, cells)


def cost_table(study: Study) -> Table:
    """A row per arm: finished cells, seconds, rounds, and steps on the target's images."""
    rows = []
    for arm in study.arms:
        cells = [cell for (name, _), cell in study.cells.items() if name == arm]
        if not cells:
            continue
        seconds = sum(cell["seconds"] for cell in cells)
        sites = sorted({site for cell in cells for site in cell["steps"]})
        steps = [f"{site}: {_distinct(c['steps'].get(site, 0) for c in cells)}" for site in sites]
        last = [max((line["round"] for line in c["history"]), default=0) for c in cells]
        rounds = _distinct(last) if any(last) else "-"
        traffic = sum(
            facts.get("bytes_down", 0) + facts.get("bytes_up", 0)
            for cell in cells
            for line in cell["history"]
            for facts in line["sites"].values()
        )
        sent = size(traffic) if traffic else "-"
        told = "; ".join(steps) or "none"
        rows.append([arm, str(len(cells)), f"{seconds:,.0f}", rounds, sent, told])
    return Table(
        "What each arm cost",
        ["arm", "cells", "seconds", "rounds", "traffic", "steps on the target"],
        rows,
        note="Seconds and traffic are those of all cells together, rounds and steps those of one."
        " Traffic: all bytes between server and sites, both ways. An arm of two stages has the"
        " rounds of its second one.",
        words=frozenset({5}),
    )


def _distinct(numbers: Iterable[int]) -> str:
    return ", ".join(map(str, sorted(set(numbers))))


def tested_images(study: Study, task: str, site: str) -> int:
    """How many images are tested in all folds, for one backbone and seed."""
    by_cell = {row.cell: row.n for row in study.results if (row.task, row.site) == (task, site)}
    first = next(iter(by_cell), None)
    return sum(
        n
        for cell, n in by_cell.items()
        if first and (cell.backbone, cell.seed) == (first.backbone, first.seed)
    )


def _support(study: Study, task: str, site: str) -> str:
    folds = {row.cell.fold for row in study.results if (row.task, row.site) == (task, site)}
    images = count(tested_images(study, task, site), "test image")
    return f"{images} in {count(len(folds), 'fold')}"
