"""The page of one federated run."""

from collections.abc import Iterator

from mdmt.privacy.accounting import describe_cost
from mdmt.report.answer import gain_charts, run_answer
from mdmt.report.canvas import arm_colours
from mdmt.report.caveats import run_caveats
from mdmt.report.learning import run_learning
from mdmt.report.page import Block, Page, Table
from mdmt.report.predictions import prediction_figures
from mdmt.report.run_results import result_blocks
from mdmt.report.setup import config_blocks, site_table, versions_paragraph
from mdmt.report.similarity import similarity_blocks
from mdmt.report.words import count, size, task_title
from mdmt.results.runs import Run
from mdmt.results.simulated import simulated_predictions


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
            ("results", "Results on the test sets", list(result_blocks(run))),
            ("predictions", "Predictions", list(_predictions(run))),
            ("learning", "Learning curves", run_learning(run)),
            ("similarity", "Do the sites move the backbone in one direction?", similar),
            (
                "setup",
                "What was run",
                setup + config_blocks(run.config.model_dump(mode="json", exclude={"sites"})),
            ),
            ("cost", "Rounds, time and traffic", list(_cost(run))),
        ],
        charts=gain_charts(run),
    )


def _summary(run: Run) -> Iterator[str]:
    yield from run_answer(run)
    rounds = run.history[-1]["round"] if run.history else 0
    sites = len(run.sites["sites"]) if run.sites else 0
    one = "One" if run.config.algorithm.backbone == "common" else "For each site one"
    trained = f"{one} {run.config.model.backbone} backbone, trained by {count(sites, 'site')} in"
    where = ", simulated on one machine" if run.config.sites else ""
    yield f"{trained} {count(rounds, 'round')} without their images leaving them{where}."
    if run.metrics is not None:
        yield f"Released: {'; '.join(_released(run))}."
    if cost := describe_cost(run.config):
        yield f"Differential privacy: {cost}."
    if run.metrics is None:
        # Why a run failed may name files, and stays on its machine.
        state = "failed" if run.outcome.startswith("failed") else run.outcome
        yield f"The run has no test results ({state})."


def _released(run: Run) -> Iterator[str]:
    for task in run.config.tasks:
        name = run.released(task)
        number = run.metrics["checkpoints"][name]["round"] if run.metrics else 0
        why = "the last round" if name == "last" else "the round with the best validation"
        yield f"{task_title(run.config, task)} after round {number}, {why}"


def _predictions(run: Run) -> Iterator[Block]:
    """Yield plots of the released model, which only a simulation has."""
    colours = arm_colours(("federated",))
    for number, found in enumerate(simulated_predictions(run)):
        if number == 0:
            yield "The released model on the test images. In a deployment these stay at the sites."
        where = f"{task_title(run.config, found.task)} at {found.site}"
        yield from prediction_figures(where, found.space, {found.arm: found}, colours)


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
