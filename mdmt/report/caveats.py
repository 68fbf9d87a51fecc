"""What a reader should know before relying on a result, found in the files themselves."""

from collections.abc import Iterator, Mapping
from typing import Any

from mdmt.enough import FEWEST_OF_A_CLASS, FEWEST_PATIENTS
from mdmt.report.words import count, metric_name, without_paths
from mdmt.results.runs import Run, count_labels
from mdmt.results.studies import Study
from mdmt.tasks import Task, task_kinds

Tests = Mapping[str, Mapping[str, Any] | None]
"""Model → its test metrics at one site, as `Run.tests` gives them."""
FEW_TO_TEST = 100
"""With so many images, half of each class, the 95 % interval of an AUROC of 0.8 is 0.17 wide."""
FEW_TO_TRAIN = 20
"""Below this many training images, a class is hardly learned."""


def run_caveats(run: Run) -> list[str]:
    """List what limits a run: its state, counts, undefined metrics and refusals."""
    found = []
    if run.outcome.startswith("failed"):
        found.append("The run failed; events.jsonl in its folder says why.")
    elif run.outcome.startswith("incomplete"):
        sites = {
            site for sites in (run.metrics or {}).get("missing", {}).values() for site in sites
        }
        found.append(f"Results of {', '.join(sorted(sites))} are missing; --resume completes them.")
    elif run.outcome != "done":
        found.append(f"The run is {run.outcome}.")
    files = {
        "sites.json (no registration yet)": run.sites,
        "history.jsonl (no round yet)": run.history,
        "metrics.json (no test results yet)": run.metrics,
    }
    if missing := [name for name, content in files.items() if not content]:
        found.append(f"Missing: {', '.join(missing)}.")
    if run.sites:
        found += _site_caveats(run.sites["sites"])
    found += _result_caveats(run)
    refused = sum(len(line["refusals"]) for line in run.history)
    if refused:
        found.append(
            f"{count(refused, 'update')} refused: see “Rounds, time and traffic”; a site that is"
            " often refused is hardly part of the model."
        )
    return found


def _site_caveats(sites: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    """Yield what is too small at each site, by the sites' cards."""
    for name, card in sorted(sites.items()):
        for task, space in card["tasks"].items():
            where = f"{task} at {name}"
            numbers = [card["images"], card["counts"][task]]
            if any(number.get(split, 0) is None for number in numbers for split in ("test", "val")):
                yield f"{where} withholds how many images it has: judge its numbers with care."
                continue
            # An image has at least one label: no more images are labelled than this.
            test = min(number.get("test", 0) for number in numbers)
            if test == 0:
                yield f"{where} has no test image."
            elif test < FEW_TO_TEST:
                yield f"{where} has only {count(test, 'test image')}: intervals are wide."
            labels = count_labels(card["histogram"].get(task, {})) or {}
            few = [f"{label} ({n})" for label, n in labels.items() if n < FEW_TO_TRAIN]
            if few and task_kinds[space["kind"]].exclusive:
                yield f"{where} has few training images of {', '.join(few)}."


def _result_caveats(run: Run) -> Iterator[str]:
    if run.metrics is not None and run.config.release.checkpoint == "auto":
        last = [task for task in run.config.tasks if run.released(task) == "last"]
        if last:
            yield (
                f"Validation has too few patients to choose a round by ({FEWEST_PATIENTS}, and"
                f" {FEWEST_OF_A_CLASS} of each class, over all sites of a task), or none is known:"
                f" the last round of {', '.join(last)} is released."
            )
    for task in run.config.tasks:
        space = run.config.space(task)
        for site, tests in run.tests(task):
            yield from _few_of_a_class(space, task, site, tests)
            for metric in space.shown_metrics:
                key = f"{task}/{metric}"
                # A constant never varies.
                varying = {n: t for n, t in tests.items() if n != "constant" or metric != "pearson"}
                names = [n for n, test in varying.items() if test and test.get(key, 0) is None]
                if names:
                    what = f"{metric_name(metric)} of {task} at {site}"
                    why = "there, predictions or labels do not vary"
                    yield f"{what} is undefined for {', '.join(names)}: {why}."
            if not tests.get("local only") and run.config.privacy.dp is not None:
                yield (
                    f"{task} at {site} has no local-only reference, which would not be private:"
                    " whether the federation helped cannot be said."
                )
            elif not tests.get("local only"):
                yield (
                    f"{task} at {site} has no local-only reference: whether the federation helped"
                    " cannot be said; see `references` in docs/configuration.md."
                )


def _few_of_a_class(space: Task, task: str, site: str, tests: Tests) -> Iterator[str]:
    """Yield findings or classes with too few test patients for an interval."""
    final = next((test for name, test in tests.items() if test and "federated" in name), {})
    few = []
    for output in space.binary_outputs:
        label = space.prediction_names[output]
        for of, word in (("positives", "with"), ("negatives", "without")):
            number = final.get(f"{task}/{of}_{label}")
            if number is not None and number < FEWEST_OF_A_CLASS:
                few.append(f"{count(number, 'test patient')} {word} {label}")
    if few:
        yield (
            f"{task} at {site} has {', '.join(few)}: fewer than {FEWEST_OF_A_CLASS} allow neither"
            " an interval nor a test."
        )


def study_caveats(study: Study) -> list[str]:
    """List the caveats that the study wrote when it ended, and what is missing."""
    if not study.facts:
        done = len({(row.arm, row.cell) for row in study.results})
        return [
            f"The study is unfinished: {count(done, 'cell')} so far. Its statistics and its own"
            " caveats follow when all are; start `mdmt study` again to go on.",
            *_missing_cells(study),
        ]
    found = [
        without_paths(str(caveat)).removesuffix(".") + "." for caveat in study.facts["caveats"]
    ]
    files = {"predictions.csv": study.predictions, "statistics.json": study.statistics}
    for name, content in files.items():
        if not content:
            found.append(f"{name} is missing or empty: start `mdmt study` again to write it.")
    return [*found, *_missing_cells(study)]


def _missing_cells(study: Study) -> Iterator[str]:
    """Yield arms that lack cells of other arms: means over different cells are not comparable."""
    every = {row.cell for row in study.results}
    for arm in study.arms:
        lacking = len(every - {row.cell for row in study.results if row.arm == arm})
        if lacking == len(every):
            yield f"{arm} has no result yet."
        elif lacking:
            yield (
                f"{arm} has no result in {lacking} of {count(len(every), 'combination')} of"
                " backbone, fold and seed: its mean is over others than theirs."
            )
