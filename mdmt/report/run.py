"""The page of one federated run."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any

from mdmt import __version__
from mdmt.report.canvas import arm_colours
from mdmt.report.caveats import run_caveats
from mdmt.report.learning import run_learning
from mdmt.report.page import Block, Figure, Page, Panel, Paragraph, Points, Section, Table
from mdmt.report.plots import Estimate, plot_bars, plot_estimates
from mdmt.report.setup import config_blocks, site_blocks
from mdmt.report.words import count, metric_name, size
from mdmt.results.runs import Run, describe_gain, format_metric

__all__ = ["run_page"]

_UNIT = (
    "Unit of analysis: the test patient. Square brackets hold 95 % intervals of the patient-level"
    " bootstrap; they tell how well this model is measured, not how another training run would do."
    " Round brackets hold the round. The last row compares two models without a test."
)


def run_page(run: Run) -> Page:
    """Lay out the report of a run, as far as it went."""
    sections = [
        Section("results", "Results on the test sets", _results(run)),
        Section("learning", "Learning curves", run_learning(run)),
        Section("setup", "What was run", [*_setup(run), *config_blocks(_config(run))]),
        Section("cost", "Rounds, time and traffic", _cost(run)),
    ]
    return Page(
        title=run.config.name,
        kind="run",
        summary=list(_summary(run)),
        caveats=run_caveats(run),
        sections=[section for section in sections if section.blocks],
        footer=f"Written by mdmt {__version__} from the files of the run. Research use only: not a"
        " medical device.",
    )


def _config(run: Run) -> dict[str, Any]:
    recipe: dict[str, Any] = json.loads(run.config.recipe)
    return recipe


def _summary(run: Run) -> Iterator[str]:
    rounds = run.history[-1]["round"] if run.history else 0
    sites = len(run.sites["sites"]) if run.sites else 0
    trained = f"One {run.config.model.backbone} backbone, trained by {count(sites, 'site')} in"
    yield f"{trained} {count(rounds, 'round')} without their images leaving them."
    for task in run.config.tasks:
        space = run.config.space(task)
        key, name = f"{task}/{space.primary}", metric_name(space.primary)
        for site, tests in run.tests(task):
            final = _final(tests)
            sentence = (
                f"{task} at {site}: {name} {format_metric(final, key)} on"
                f" {count(final[f'{task}/examples'], 'test image')} after the last round"
            )
            if local := tests.get("local only"):
                gain = describe_gain(
                    final.get(key), local.get(key), space.primary_is_better_when
                ).replace("-", "−")
                sentence += f"; trained alone {format_metric(local, key)} (difference {gain})"
            yield f"{sentence}."
    if run.metrics is None:
        yield f"The run has no test results ({_state(run)})."


def _state(run: Run) -> str:
    """Say what became of the run; why it failed may name files, and stays on its machine."""
    return "failed" if run.outcome.startswith("failed") else run.outcome


def _final(tests: dict[str, dict[str, Any] | None]) -> dict[str, Any]:
    return next(test for name, test in tests.items() if test and name.startswith("federated"))


def _results(run: Run) -> list[Block]:
    blocks: list[Block] = []
    for task in run.config.tasks:
        for site, tests in run.tests(task):
            blocks += [_result_table(run, task, site, tests), *_result_plots(run, task, tests)]
    return blocks


def _result_table(run: Run, task: str, site: str, tests: dict[str, dict[str, Any] | None]) -> Table:
    final = _final(tests)
    shown = run.config.space(task).shown_metrics.items()
    metrics = {name: better for name, better in shown if f"{task}/{name}" in final}
    rows = [
        [name, *(format_metric(test or {}, f"{task}/{metric}") for metric in metrics)]
        for name, test in tests.items()
    ]
    emphasised = frozenset[int]()
    if local := tests.get("local only"):
        emphasised = frozenset({len(rows)})
        gains = (
            describe_gain(final.get(f"{task}/{name}"), local.get(f"{task}/{name}"), better)
            for name, better in metrics.items()
        )
        rows.append(["last vs. local only", *(gain.replace("-", "−") for gain in gains)])
    header = [f"{metric_name(name)}\n({better} is better)" for name, better in metrics.items()]
    return Table(
        caption=f"{task} at {site}: {count(final[f'{task}/examples'], 'test image')}",
        header=["model", *header],
        rows=rows,
        note=_UNIT,
        emphasised=emphasised,
    )


def _result_plots(run: Run, task: str, tests: dict[str, dict[str, Any] | None]) -> Iterator[Block]:
    """Plot the primary metric of every model, and the error of each output if there are several."""
    space = run.config.space(task)
    colours = arm_colours(("constant", "local", "federated"))
    arms = [(name, test, colours[name.split()[0].rstrip(",")]) for name, test in tests.items()]
    estimates = [
        Estimate(name, value, test.get(f"{key}_low"), test.get(f"{key}_high"), colour)
        for key in (f"{task}/{space.primary}",)
        for name, test, colour in arms
        if test and (value := test.get(key)) is not None
    ]
    better = f"{metric_name(space.primary)} ({space.primary_is_better_when} is better)"
    if estimates:
        panels = [Panel("Models", plot_estimates(estimates, better), _in_words(estimates))]
        if not space.binary_outputs and space.width > 1:
            panels.append(_output_panel(task, space.labels, arms))
        yield Figure(f"{task}: dots are values, lines 95 % intervals by patient.", panels)


def _output_panel(
    task: str, outputs: Sequence[str], arms: list[tuple[str, dict[str, Any] | None, str]]
) -> Panel:
    bars = {
        name: [
            None
            if (value := test.get(f"{task}/mae_{output}")) is None
            else Estimate(f"{name}, {output}", value, None, None, colour)
            for output in outputs
        ]
        for name, test, colour in arms
        if test and not name.startswith("federated, best")
    }
    words = "; ".join(_in_words([one for one in row if one]) for row in bars.values())
    title = f"MAE of each output: {', '.join(bars)} (left to right)"
    return Panel(title, plot_bars(outputs, bars, "MAE"), words)


def _in_words(estimates: Sequence[Estimate]) -> str:
    return "; ".join(
        f"{one.name} {one.value:.3f}"
        + ("" if one.low is None or one.high is None else f" ({one.low:.3f} to {one.high:.3f})")
        for one in estimates
    )


def _setup(run: Run) -> list[Block]:
    if run.sites is None:
        return [Paragraph("No roll call was held: no site is known.")]
    return site_blocks(run.sites["sites"], run.sites.get("versions", {}))


def _cost(run: Run) -> list[Block]:
    rows = []
    for site in sorted({site for line in run.history for site in line["sites"]}):
        facts = [line["sites"].get(site, {}) for line in run.history]
        trained = [entry for entry in facts if "bytes_up" in entry]
        seconds, images, down, up = (
            sum(entry.get(key) or 0 for entry in facts)
            for key in ("seconds", "images", "bytes_down", "bytes_up")
        )
        weight = f"{trained[-1]['weight']:.3f}" if trained and "weight" in trained[-1] else "-"
        rows.append(
            [site, f"{len(trained)}", weight, f"{images:,}", f"{seconds:.1f}", size(down), size(up)]
        )
    if not rows:
        return []
    total = sum(line["seconds"] for line in run.history)
    refused = [
        f"{site} in round {line['round']}: {reason}"
        for line in run.history
        for site, reason in line["refusals"].items()
    ]
    header = ("site", "rounds", "last weight", "images seen", "seconds", "received", "sent back")
    table = Table(
        "What each site did",
        header,
        rows,
        note=f"The server counted {total:.0f} s for {count(run.history[-1]['round'], 'round')}."
        " The weight is the site's share in the average.",
    )
    verdict = "Refused updates:" if refused else "No update was refused."
    return [table, Paragraph(verdict), *([Points(refused)] if refused else [])]
