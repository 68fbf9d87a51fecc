"""What a reader should know before believing a result, found in the files themselves."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from mdmt.runs import Run, count_labels, shown_metrics
from simulation.report.read import CellName, Study
from simulation.report.tables import mean_of, test_images
from simulation.report.words import count, metric_name, without_paths

__all__ = [
    "FEW_TO_CHOOSE",
    "FEW_TO_TEST",
    "FEW_TO_TRAIN",
    "run_caveats",
    "site_caveats",
    "study_caveats",
]

FEW_TO_TEST = 100
"""Below this many test images an AUROC of 0.8 has a 95 % interval about 0.2 wide."""
FEW_TO_CHOOSE = 50
"""Below this many validation images, rounds differ by chance more than by training."""
FEW_TO_TRAIN = 20
"""Fewer training images of a class than this are hardly a class."""


def run_caveats(run: Run) -> list[str]:
    """Find what limits a run: its state, its counts, its undefined metrics, its refusals."""
    found = []
    if run.outcome.startswith("failed"):
        found.append("The run failed; events.jsonl in its folder says why.")
    elif run.outcome != "done":
        found.append(f"The run is {run.outcome}.")
    missing = [
        name
        for name, content in (
            ("sites.json (no roll call yet)", run.sites),
            ("history.jsonl (no round yet)", run.history),
            ("metrics.json (no test results yet)", run.metrics),
        )
        if not content
    ]
    if missing:
        found.append(f"Missing: {', '.join(missing)}.")
    if run.sites:
        found += site_caveats(run.sites["sites"])
    found += _result_caveats(run)
    refused = sum(len(line["refusals"]) for line in run.history)
    if refused:
        found.append(
            f"{count(refused, 'update')} refused: see “Rounds, time and traffic”; a site that is"
            " often refused is hardly part of the model."
        )
    return found


def site_caveats(sites: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    """Yield what is too small at each site, from the sites' cards."""
    for name, card in sorted(sites.items()):
        for task, space in card["tasks"].items():
            width = len(space.get("outputs") or space.get("findings") or [""])
            test, val = (-(-card["counts"][task].get(s, 0) // width) for s in ("test", "val"))
            where = f"{task} at {name}"
            if test == 0:
                yield f"{where} has no test image."
            elif test < FEW_TO_TEST:
                yield f"{where} has only {count(test, 'test image')}: intervals are wide."
            if val < FEW_TO_CHOOSE:
                yield (
                    f"{where} has {count(val, 'validation image')}: too few to choose a round by;"
                    " prefer the last round to the best."
                )
            few = {
                label: number
                for label, number in count_labels(card["histogram"].get(task, {})).items()
                if space["kind"] == "classification" and number < FEW_TO_TRAIN
            }
            if few:
                listed = ", ".join(f"{label} ({number})" for label, number in few.items())
                yield f"{where} has few training images of {listed}."


def _result_caveats(run: Run) -> Iterator[str]:
    for task in run.config.tasks:
        space = run.config.space(task)
        for site, tests in run.tests(task):
            for metric in shown_metrics(space):
                undefined = [
                    name
                    for name, test in tests.items()
                    if test and test.get(f"{task}/{metric}", 0) is None
                ]
                if undefined:
                    yield (
                        f"{metric_name(metric)} of {task} at {site} is undefined for"
                        f" {', '.join(undefined)}: there, predictions or labels do not vary."
                    )
            if not tests.get("local only"):
                yield (
                    f"{task} at {site} has no local-only reference: whether the federation helped"
                    " cannot be said; see `references` in docs/configuration.md."
                )


def study_caveats(study: Study) -> list[str]:
    """Find what limits a study: what it says itself, missing cells, shortcuts, overlaps, counts."""
    found = [without_paths(str(caveat)) for caveat in study.facts.get("caveats", [])]
    missing = [
        name
        for name, content in (
            ("results.csv", study.results),
            ("predictions.csv", study.predictions),
            ("statistics.json", study.statistics),
        )
        if not content
    ]
    if missing:
        found.append(f"The study is unfinished. Missing or empty: {', '.join(missing)}.")
    found += _missing_cells(study)
    found += _shortcuts(study)
    found += _overlaps(study)
    found += _small_tests(study)
    return list(dict.fromkeys(found))


def _small_tests(study: Study) -> Iterator[str]:
    """Yield the tasks and sites whose folds together test few images."""
    for task, site in study.tested():
        total = test_images(study, task, site)
        if total < FEW_TO_TEST:
            yield f"{task} at {site} has only {count(total, 'test image')}: intervals are wide."


def _missing_cells(study: Study) -> Iterator[str]:
    """Yield arms that lack cells others have: means over different cells are not comparable."""
    every = {row.cell for row in study.results}
    for arm in study.arms:
        lacking = len(every - {row.cell for row in study.results if row.arm == arm})
        if lacking:
            yield f"{arm} lacks {lacking} of {count(len(every), 'cell')}: its means are not theirs."
    undefined = {
        (row.task, row.site, row.metric, row.arm)
        for row in study.results
        if row.value is None and row.metric == study.spaces[row.task].primary
    }
    for task, site, metric, arm in sorted(undefined):
        yield (
            f"{metric_name(metric)} of {task} at {site} is undefined in some cells of {arm}: a"
            " test set holds one class only, or predictions do not vary."
        )


def _shortcuts(study: Study) -> Iterator[str]:
    """Yield where columns without an image do as well as the arms that see one."""
    if "metadata" not in study.arms:
        return
    for task, site in study.tested():
        space = study.spaces[task]
        sign = 1 if space.primary_is_better_when == "higher" else -1
        blind, *seeing = (
            (arm, mean_of(list(study.values(arm, site, task, space.primary).values())))
            for arm in ("metadata", "local", "pooled", "federated")
        )
        beaten = [
            f"{arm} ({mean.value:.3f})"
            for arm, mean in seeing
            if mean and blind[1] and sign * mean.value <= sign * blind[1].value
        ]
        if blind[1] and beaten:
            yield (
                f"Shortcut: for {task} at {site} the metadata arm, which sees no image, reaches"
                f" {metric_name(space.primary)} {blind[1].value:.3f}, no worse than"
                f" {', '.join(beaten)}. The labels can be told without looking."
            )


def _overlaps(study: Study) -> Iterator[str]:
    """Yield tasks in which a patient is tested in several folds of one seed, thus also trained."""
    for task, site in study.tested():
        for arm in study.arms:
            folds_of: dict[tuple[str, str, str], set[CellName]] = {}
            for name, cell in study.predictions.get((arm, site, task), {}).items():
                for patient in set(cell.patients):
                    key = (patient, name.backbone, name.seed)
                    folds_of.setdefault(key, set()).add(name)
            shared = {patient for (patient, *_), names in folds_of.items() if len(names) > 1}
            if shared:
                yield (
                    f"{task} at {site}: {count(len(shared), 'patient')} tested in more than one"
                    " fold of a seed, so that folds share patients."
                )
                break
