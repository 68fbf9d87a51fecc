"""The page of one federated run."""

from collections.abc import Iterator
from typing import Any

from mdmt.privacy.accounting import describe_cost
from mdmt.report.canvas import Estimate, arm_colours, name_rows, panel
from mdmt.report.caveats import run_caveats
from mdmt.report.figures import draw_bars
from mdmt.report.learning import run_learning
from mdmt.report.page import Block, Figure, Page, Panel, Table
from mdmt.report.setup import config_blocks, site_table, versions_paragraph
from mdmt.report.similarity import similarity_blocks
from mdmt.report.words import count, metric_name, signed, size
from mdmt.results.runs import Run, format_metric, shown_reference

Tests = dict[str, dict[str, Any] | None]
"""Model → its test metrics at one site, as `Run.tests` gives them."""

_UNIT = (
    "Unit of analysis: the test patient. Square brackets hold 95 % intervals of the patient-level"
    " bootstrap; they tell how well this model is measured, not how another training run would do."
    " Round brackets hold the round. The last rows compare the released model with the references"
    " on the same patients: it is called better or worse only if the interval of the difference"
    " excludes 0."
)


def run_page(run: Run) -> Page:
    """Lay out the report of a run, as far as it went."""
    setup: list[Block] = ["No registration took place: no site is known."]
    if run.sites is not None:
        versions = versions_paragraph(run.sites.get("versions", {}))
        setup = [site_table(run.sites["sites"]), *versions]
    similar = similarity_blocks(run.history)
    return Page(
        title=run.config.name,
        kind="run",
        summary=list(_summary(run)),
        caveats=run_caveats(run),
        sections=[
            ("results", "Results on the test sets", list(_results(run))),
            ("learning", "Learning curves", run_learning(run)),
            ("similarity", "Do the sites move the backbone in one direction?", similar),
            (
                "setup",
                "What was run",
                setup + config_blocks(run.config.model_dump(mode="json", exclude={"sites"})),
            ),
            ("cost", "Rounds, time and traffic", list(_cost(run))),
        ],
    )


def _summary(run: Run) -> Iterator[str]:
    rounds = run.history[-1]["round"] if run.history else 0
    sites = len(run.sites["sites"]) if run.sites else 0
    one = "One" if run.config.algorithm.backbone == "common" else "For each site one"
    trained = f"{one} {run.config.model.backbone} backbone, trained by {count(sites, 'site')} in"
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
            if (local := tests.get("local only")) and (found := run.gains(task, site).get("local")):
                alone = f"; trained alone {format_metric(local, key)}"
                sentence += f"{alone} (difference {found.describe()})"
            yield f"{sentence}."
    if cost := describe_cost(run.config):
        yield f"Differential privacy: {cost}."
    if run.metrics is None:
        # Why a run failed may name files, and stays on its machine.
        state = "failed" if run.outcome.startswith("failed") else run.outcome
        yield f"The run has no test results ({state})."


def _final(tests: Tests) -> dict[str, Any]:
    return next(test for name, test in tests.items() if test and name.startswith("federated"))


def _results(run: Run) -> Iterator[Block]:
    for task in run.config.tasks:
        for site, tests in run.tests(task):
            yield result_table(run, task, site, tests)
            yield from _result_plots(run, task, tests)


def result_table(run: Run, task: str, site: str, tests: Tests) -> Table:
    """A row per model at one site, a column per shown metric of a task."""
    final, released = _final(tests), run.released(task).partition(":")[0]
    shown = run.config.space(task).shown_metrics.items()
    metrics = {f"{task}/{name}": better for name, better in shown if f"{task}/{name}" in final}
    rows = [
        [name, *(format_metric(test or {}, key) for key in metrics)] for name, test in tests.items()
    ]
    models = len(rows)
    subject = next(
        t or {} for name, t in tests.items() if name.startswith(f"federated, {released}")
    )
    for name, found in run.gains(task, site).items():
        reference = tests.get(shown_reference(name)) or {}
        others = (_difference(subject.get(key), reference.get(key)) for key in list(metrics)[1:])
        rows.append([f"{released} vs. {shown_reference(name)}", found.describe("\n"), *others])
    names = {metric_name(key.partition("/")[2]): better for key, better in metrics.items()}
    return Table(
        caption=f"{task} at {site}: {count(final[f'{task}/examples'], 'test image')}",
        header=["model", *(f"{name}\n({better} is better)" for name, better in names.items())],
        rows=rows,
        note=_UNIT,
        emphasised=frozenset(range(models, len(rows))),
    )


def _difference(model: float | None, reference: float | None) -> str:
    return "-" if model is None or reference is None else signed(model - reference)


def _result_plots(run: Run, task: str, tests: Tests) -> Iterator[Figure]:
    """Plot the primary metric of every model, and the error of each output if there are several."""
    space = run.config.space(task)
    colours, key = (
        arm_colours(("constant", "probe", "local", "federated")),
        f"{task}/{space.primary}",
    )
    colour_of = {name: colours[name.split()[0].rstrip(",")] for name in tests}
    estimates = [
        Estimate(name, test[key], test.get(f"{key}_low"), test.get(f"{key}_high"), colour_of[name])
        for name, test in tests.items()
        if test and test.get(key) is not None
    ]
    if not estimates:
        return
    panels: list[Panel] = []
    better = f"{metric_name(space.primary)} ({space.primary_is_better_when} is better)"
    alt, height = "; ".join(map(str, estimates)), 70 + 30 * len(estimates)
    with panel(panels, "Models", better, "", alt=alt, height=height) as axes:
        for row, one in enumerate(estimates):
            if one.interval is not None:
                axes.hlines(row, *one.interval, color=one.colour, linewidth=2.5)
            axes.plot(one.value, row, "o", color=one.colour, markersize=7)
        name_rows(axes, [one.name for one in estimates])
    if not space.binary_outputs and space.width > 1:
        bars = {
            name: [
                Estimate(f"{name}, {output}", float("nan") if mae is None else mae, None, None, c)
                for output in space.labels
                for mae, c in ((test.get(f"{task}/mae_{output}"), colour_of[name]),)
            ]
            for name, test in tests.items()
            if test and not name.startswith("federated, best")
        }
        title = f"MAE of each output: {', '.join(bars)} (left to right)"
        draw_bars(panels, title, space.labels, bars)
    yield Figure(f"{task}: dots are values, lines 95 % intervals by patient.", panels)


def _cost(run: Run) -> Iterator[Block]:
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
        return
    total = sum(line["seconds"] for line in run.history)
    yield Table(
        "What each site did",
        ["site", "rounds", "last weight", "images seen", "seconds", "received", "sent back"],
        rows,
        note=f"The server counted {total:.0f} s for {count(run.history[-1]['round'], 'round')}."
        " The weight is the site's share in the average.",
    )
    refused = [
        f"{site} in round {line['round']}: {reason}"
        for line in run.history
        for site, reason in line["refusals"].items()
    ]
    yield "Refused updates:" if refused else "No update was refused."
    if refused:
        yield refused
