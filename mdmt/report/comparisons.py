"""Compare arms with the arm that trains alone, over cells and over patients, never mixed."""

from __future__ import annotations

from typing import Any

from mdmt.report.page import Table
from mdmt.report.words import at, metric_name, probability, signed
from mdmt.results.statistics import mean_of
from mdmt.results.studies import Study
from mdmt.results.test_sets import ALL, CellName

__all__ = ["delong_table", "difference_table", "paired_differences", "paired_test"]


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
