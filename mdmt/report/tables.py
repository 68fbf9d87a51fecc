"""A study's results as tables: arms by metrics, arms by backbones, arms by patients, costs."""

from collections.abc import Iterable
from typing import Any

from mdmt.report.page import Table
from mdmt.report.words import at, count, metric_name, probability, signed, size
from mdmt.results.predictions import ALL, CellName
from mdmt.results.runs import format_metric
from mdmt.results.statistics import Mean, mean_of
from mdmt.results.studies import Study


def arm_table(study: Study, task: str, site: str, backbone: str) -> Table:
    """A row per arm, a column per metric: mean ± standard error over the cells of one backbone."""
    shown, rows = study.spaces[task].shown_metrics, []
    for arm in study.arms:
        means = [_mean(study, arm, site, task, metric, backbone) for metric in shown]
        if n := max(mean.n for mean in means):
            rows.append([arm, *map(str, means), str(n)])
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
    values = {
        (row["arm"], row["seed"]): format_metric(
            {"x": row["value"], "x_low": row["low"], "x_high": row["high"]}, "x"
        )
        for row in found
    }
    arms = [arm for arm in study.arms if any(arm == row["arm"] for row in found)]
    name = metric_name(study.spaces[task].primary)
    tested = f"{count(found[0]['images'], 'image')} of {count(found[0]['patients'], 'patient')}"
    return Table(
        f"{at(task, site)}, {backbone}: {name} over all folds, {tested}",
        ["arm", *(f"seed {seed}" for seed in seeds)],
        [[arm, *(values.get((arm, seed), "-") for seed in seeds)] for arm in arms],
        note=study.unit("intervals"),
    )


def backbone_table(study: Study, task: str, site: str) -> Table:
    """A row per backbone, a column per arm: the primary metric; the last row is their mean."""
    space = study.spaces[task]
    arms = [arm for arm in study.arms if study.values(arm, site, task, space.primary)]
    means = {
        backbone: [_mean(study, arm, site, task, space.primary, backbone) for arm in arms]
        for backbone in study.backbones
    }
    rows = [
        [backbone, *(str(mean) if mean.n else "-" for mean in of_backbone)]
        for backbone, of_backbone in means.items()
    ]
    every = [
        mean_of([mean.value for mean in of_arm if mean.n])
        for of_arm in zip(*means.values(), strict=True)
    ]
    return Table(
        f"{at(task, site)}: {metric_name(space.primary)} ({space.primary_is_better_when} is better)"
        " of each backbone",
        ["backbone", *arms],
        [*rows, ["mean of backbones", *map(str, every)]],
        note="Unit of analysis: in a backbone's row the test set (cells that test the same images"
        " are averaged first), in the last row the backbone. Mean ± standard error.",
        emphasised=frozenset({len(rows)}),
    )


def _mean(study: Study, arm: str, site: str, task: str, metric: str, backbone: str) -> Mean:
    """Mean over the test sets of one backbone."""
    values = study.values(arm, site, task, metric)
    cells = {cell: value for cell, value in values.items() if cell.backbone == backbone}
    return mean_of(study.tests.means(task, site, cells))


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
        traffic = sum(
            facts.get("bytes_down", 0) + facts.get("bytes_up", 0)
            for cell in cells
            for line in cell["history"]
            for facts in line["sites"].values()
        )
        rows.append(
            [
                *(arm, str(len(cells)), f"{seconds:,.0f}"),
                *(_distinct(last) if any(last) else "-", size(traffic) if traffic else "-"),
                "; ".join(steps) or "none",
            ]
        )
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


def _support(study: Study, task: str, site: str) -> str:
    """How many images are tested in all folds, for one backbone and seed."""
    by_cell = {row.cell: row.n for row in study.results if (row.task, row.site) == (task, site)}
    first = next(iter(by_cell))
    by_fold = {
        cell.fold: n
        for cell, n in by_cell.items()
        if (cell.backbone, cell.seed) == (first.backbone, first.seed)
    }
    folds = {cell.fold for cell in by_cell}
    return f"{count(sum(by_fold.values()), 'test image')} in {count(len(folds), 'fold')}"


def paired_differences(
    study: Study, task: str, site: str, backbone: str = ALL
) -> dict[str, dict[CellName, float]]:
    """By arm and cell: its primary metric minus the reference's, in the cells that both have."""
    if study.reference is None:
        return {}
    primary = study.spaces[task].primary
    reference = study.values(study.reference, site, task, primary)
    pairs = {
        arm: {
            cell: value - reference[cell]
            for cell, value in study.values(arm, site, task, primary).items()
            if cell in reference and backbone in (cell.backbone, ALL)
        }
        for arm in study.arms
        if arm != study.reference
    }
    return {arm: cells for arm, cells in pairs.items() if cells}


def paired_test(
    study: Study, task: str, site: str, arm: str, backbone: str = ALL
) -> dict[str, Any]:
    """Row of ``statistics.json`` that compares `arm` with the reference; empty without one."""
    family = backbone if len(study.backbones) > 1 else study.backbones[0]
    for row in study.statistic("paired", task=task, site=site, backbone=family):
        if {row["arm_a"], row["arm_b"]} == {arm, study.reference}:
            return row
    return {}


def difference_table(study: Study, task: str, site: str, backbone: str = ALL) -> Table:
    """A row per arm: its mean difference to the reference over matched cells, and tests.

    There must be some `paired_differences`.
    """
    space = study.spaces[task]
    sign = 1 if space.primary_is_better_when == "higher" else -1
    rows = []
    for arm, cells in paired_differences(study, task, site, backbone).items():
        values = study.tests.means(task, site, cells)
        mean, test = mean_of(values), paired_test(study, task, site, arm, backbone)
        effect = test.get("d_z")
        if effect is not None and test["arm_a"] == study.reference:
            effect = -effect
        rows.append(
            [
                *(arm, signed(mean.value), mean.interval),
                f"{sum(sign * value > 0 for value in values)} of {mean.n}",
                "-" if effect is None else signed(effect, 2),
                *(probability(test.get(name)) for name in ("p_t_holm", "p_w_holm")),
            ]
        )
    where = at(task, site) + ("" if backbone == ALL else f", {backbone}")
    return Table(
        f"{where}: difference in {metric_name(space.primary)} to {study.reference}"
        f" ({'above' if sign > 0 else 'below'} 0 is better)",
        [
            *("arm", "mean\ndifference", "95 % interval", "better in\ntest sets"),
            *("effect\nd_z", "p, paired t\n(Holm)", "p, Wilcoxon\n(Holm)"),
        ],
        rows,
        note=(study.unit("paired") or "Unit of analysis: cells.")
        + " The interval is Student's for the mean difference, not corrected for several arms.",
    )


def delong_table(study: Study, task: str, site: str, backbone: str) -> Table | None:
    """A row per arm, output and seed: difference in AUROC to the reference, over patients."""
    rows = []
    several = len(study.spaces[task].binary_outputs) > 1
    for row in study.statistic("delong", task=task, site=site, backbone=backbone):
        if study.reference not in (row["arm_a"], row["arm_b"]):
            continue
        first = row["arm_a"] == study.reference
        arm, sign = (row["arm_b"], -1) if first else (row["arm_a"], 1)
        ends = [None if row[end] is None else sign * row[end] for end in ("low", "high")][::sign]
        low, high = ("-" if end is None else signed(end) for end in ends)
        rows.append(
            [
                *(f"{arm}, {row['output']}" if several else arm, str(row["seed"])),
                *(signed(sign * row["difference"]), f"[{low}, {high}]"),
                *(probability(row["p"]), probability(row["p_holm"])),
            ]
        )
    if not rows:
        return None
    return Table(
        f"{at(task, site)}, {backbone}: difference in AUROC to {study.reference} on the same"
        " patients",
        ["arm", "seed", "difference", "95 % interval", "p", "p (Holm)"],
        rows,
        note=study.unit("delong"),
    )
