"""Out-of-fold metrics of a study and the gains over its comparators, as tables."""

from collections.abc import Iterator, Mapping
from typing import Any

from mdmt.report.page import Table
from mdmt.report.words import metric_name, probability, signed
from mdmt.results.gains import BEST, MEAN
from mdmt.results.studies import Study


def gain_tables(study: Study) -> Iterator[Table]:
    """Yield the endpoint, then the gains and the metrics of each target; none without comparators.

    The first is the answer of a study, the others are its parts.
    """
    for backbone in study.backbones:
        rows = study.statistic("endpoint", backbone=backbone)
        if rows and rows[0]["targets"] > 1:
            yield _endpoint_table(study, backbone, rows)
        found = study.statistic("gains", backbone=backbone)
        for task in dict.fromkeys(row["task"] for row in found):
            yield _gain_table(study, task, backbone, [r for r in found if r["task"] == task])
    for backbone in study.backbones:
        found = study.statistic("out_of_fold", backbone=backbone)
        for task, metric in dict.fromkeys((row["task"], row["metric"]) for row in found):
            chosen = [row for row in found if (row["task"], row["metric"]) == (task, metric)]
            yield _metric_table(study, task, metric, backbone, chosen)


def _endpoint_table(study: Study, backbone: str, rows: list[dict[str, Any]]) -> Table:
    return Table(
        f"Endpoint, {backbone}: mean standardised gain over {rows[0]['targets']} targets"
        " (above 0 is better)",
        ["arm", "minus", "gain", "95 % interval"],
        [[row["arm"], _against(row), *_signed_interval(row)] for row in rows],
        note=study.unit("endpoint"),
        words=frozenset({1}),
    )


def _gain_table(study: Study, task: str, backbone: str, rows: list[dict[str, Any]]) -> Table:
    margin = rows[0]["margin"]
    worse = "not worse" if margin is None else f"not worse\nby {margin:g}"
    return Table(
        f"{task}, {backbone}: gain in {metric_name(rows[0]['metric'])} (above 0 is better)",
        ["arm", "minus", "site", "gain", "95 % interval", "standard-\nised", "p (Holm)", worse],
        [
            [
                *(row["arm"], _against(row), row["site"], *_signed_interval(row)),
                "-" if row["standardised"] is None else signed(row["standardised"]),
                probability(row["p_holm"]),
                {True: "yes", False: "not shown", None: "-"}[row["not_worse"]],
            ]
            for row in rows
        ],
        note=study.unit("gains"),
        words=frozenset({1, 2, 7}),
        emphasised=frozenset(n for n, row in enumerate(rows) if row["site"] == MEAN),
    )


def _metric_table(
    study: Study, task: str, metric: str, backbone: str, rows: list[dict[str, Any]]
) -> Table:
    """A row per arm, a column per site and one for their mean."""
    sites = sorted({row["site"] for row in rows}, key=lambda site: (site == MEAN, site))
    by_arm: dict[str, dict[str, str]] = {}
    for row in rows:
        by_arm.setdefault(row["arm"], {})[row["site"]] = _with_interval(row)
    better = study.spaces[task].shown_metrics[metric]
    return Table(
        f"{task}, {backbone}: {metric_name(metric)} over all folds ({better} is better)",
        ["arm", *sites],
        [
            [arm, *(by_arm[arm].get(site, "-") for site in sites)]
            for arm in study.arms
            if arm in by_arm
        ],
        note=study.unit("out_of_fold"),
    )


def _against(row: Mapping[str, Any]) -> str:
    """Name of the comparator, and which one it is for a task if the best is meant."""
    if row["comparator"] == BEST and "against" in row:
        return f"{BEST} ({row['against']})"
    return str(row["comparator"])


def _signed_interval(row: Mapping[str, Any]) -> tuple[str, str]:
    if row["gain"] is None:
        return "undefined", "-"
    if row["low"] is None:
        return signed(row["gain"]), "-"
    return signed(row["gain"]), f"[{signed(row['low'])}, {signed(row['high'])}]"


def _with_interval(row: Mapping[str, Any]) -> str:
    if row["value"] is None:
        return "undefined"
    ends = "" if row["low"] is None else f" [{row['low']:.3f}, {row['high']:.3f}]"
    return f"{row['value']:.3f}{ends}".replace("-", "−")
