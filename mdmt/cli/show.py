"""``mdmt show`` and ``mdmt report``, and the tables of a run or a study, finished or not."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mdmt.cli.console import new_table, show_results
from mdmt.results.runs import Run, format_metric, read_run

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table

    from mdmt.report import page


def show(run: Annotated[Path, typer.Argument(help="Run directory, such as runs/demo.")]) -> None:
    """Show the sites, results and cost of a run, finished or not."""
    show_results(*_site_tables(run), *run_tables(run))


def report(
    folder: Annotated[Path, typer.Argument(help="Folder of a run or a study, such as runs/demo.")],
) -> None:
    """Write report.html into a run or a study: results, plots, caveats, in one file."""
    from mdmt.report import write_report

    typer.echo(write_report(folder))


def _site_tables(folder: Path) -> Iterator[Table]:
    """Yield a table of the sites with their tasks, images and labels; none before registration."""
    from mdmt.data.manifest import SPLITS
    from mdmt.report.setup import label_counts
    from mdmt.report.words import reported

    run = read_run(folder)
    if run.sites is None:
        return
    table = new_table(
        f"{run.config.name}: sites (images and labels: train/val/test; -: withheld)",
        *("site", "task", "images", "labels", "training labels"),
    )
    for name, card in run.sites["sites"].items():
        images = "/".join(reported(card["images"].get(split, 0)) for split in SPLITS)
        for task in card["tasks"]:
            labels = "/".join(reported(card["counts"][task].get(split, 0)) for split in SPLITS)
            table.add_row(name, task, images, labels, label_counts(card["histogram"].get(task, {})))
    yield table


def run_tables(folder: Path) -> Iterator[RenderableType]:
    """Yield the results of a run (or its last validation if it has none yet), and its cost."""
    from mdmt.report.answer import run_answer
    from mdmt.report.run_results import result_table

    run = read_run(folder)
    if run.metrics is not None:
        for task in run.config.tasks:
            for site, tests in run.tests(task):
                yield _as_rich(result_table(run, task, site, tests))
        yield "Brackets: rounds, and 95 % intervals by patient bootstrap."
        yield from run_answer(run)
        if missing := run.metrics.get("missing"):
            table = new_table("missing results", "result", "site", "why")
            for name, sites in missing.items():
                for site, why in sites.items():
                    table.add_row(name, site, why)
            yield table
    elif run.history:
        yield _validation_table(run)
    yield _cost(run)
    if run.config.privacy.dp is not None:
        from mdmt.privacy.accounting import describe_cost

        yield f"Differential privacy: {describe_cost(run.config)}"
    if run.outcome != "done":
        yield f"{run.folder.name}: {run.outcome}"


def study_tables(folder: Path) -> Iterator[RenderableType]:
    """Yield the main table of each task and site of a study, its gains, then its caveats."""
    from mdmt.report.caveats import study_caveats
    from mdmt.report.cross_site import cross_site_tables
    from mdmt.report.gains import gain_tables
    from mdmt.report.tables import arm_table, backbone_table
    from mdmt.results.studies import read_study

    study = read_study(folder)
    for task, site in sorted(study.tested(), key=lambda of: of[0] != study.config["target"]):
        if len(study.backbones) > 1:
            yield _as_rich(backbone_table(study, task, site))
        else:
            yield _as_rich(arm_table(study, task, site, study.backbones[0]))
    yield from map(_as_rich, cross_site_tables(study))
    yield from map(_as_rich, gain_tables(study))
    yield from (f"Note: {caveat}" for caveat in study_caveats(study))


def _as_rich(table: page.Table) -> Table:
    first, *others = (name.replace(" is better", "\nis better") for name in table.header)
    result = new_table(table.caption, first, *(f">{name}" for name in others))
    for number, row in enumerate(table.rows):
        result.add_row(*row, style="bold" if number in table.emphasised else None)
    return result


def _validation_table(run: Run) -> Table:
    last = run.history[-1]
    title = f"{run.config.name}: validation after round {last['round']}"
    table = new_table(title, "site", "task", "metric", ">value")
    places = {site: facts.get("validation", {}) for site, facts in last["sites"].items()}
    if run.config.privacy.secure_aggregation:
        places = {"all sites": last["tasks"]}
    for site, found in places.items():
        for task in run.config.tasks:
            metric = run.config.space(task).primary
            if (key := f"{task}/{metric}") in found:
                table.add_row(site, task, metric, format_metric(found, key))
    return table


def _cost(run: Run) -> str:
    """Return a line with the number of rounds, seconds, bytes and refusals."""
    sites = [facts for line in run.history for facts in line["sites"].values()]
    down, up = (sum(facts.get(key, 0) for facts in sites) for key in ("bytes_down", "bytes_up"))
    rounds = run.history[-1]["round"] if run.history else 0
    seconds = sum(line["seconds"] for line in run.history)
    refusals = [
        f"{site} in round {line['round']} ({reason})"
        for line in run.history
        for site, reason in line["refusals"].items()
    ]
    return (
        f"{rounds} rounds in {seconds:.0f} s; {down / 1e6:.1f} MB to the sites,"
        f" {up / 1e6:.1f} MB back; refused: {'; '.join(refusals) or 'none'}"
    )
