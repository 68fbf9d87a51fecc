"""The page of a study: the same comparison over arms, backbones, folds and seeds."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from mdmt import __version__
from mdmt.tasks import Task
from simulation.report.canvas import arm_colours
from simulation.report.caveats import study_caveats
from simulation.report.curves import Cell
from simulation.report.figures import (
    calibration_figure,
    confusion_figure,
    difference_figure,
    output_figure,
    roc_figure,
    score_figure,
)
from simulation.report.learning import study_learning
from simulation.report.page import Block, Details, Page, Paragraph, Section
from simulation.report.read import Study
from simulation.report.setup import config_blocks, fold_blocks, versions_paragraph
from simulation.report.tables import (
    arm_table,
    backbone_table,
    cost_table,
    difference_table,
    mean_of,
    paired_differences,
)
from simulation.report.words import count, metric_name, signed

__all__ = ["study_page"]


def study_page(study: Study) -> Page:
    """Lay out the report of a study, as far as it went."""
    sections = [
        Section("results", "Results on the test sets", list(_results(study))),
        Section("differences", "Paired differences", list(_differences(study))),
        Section("predictions", "Predictions", list(_predictions(study))),
        Section("learning", "Learning curves", study_learning(study)),
        Section("setup", "What was run", list(_setup(study))),
    ]
    return Page(
        title=study.config["name"],
        kind="study",
        summary=list(_summary(study)),
        caveats=study_caveats(study),
        sections=[section for section in sections if section.blocks],
        footer=f"Written by mdmt {__version__} from the files of the study. Research use only: not"
        " a medical device.",
    )


def _backbones(study: Study) -> list[str]:
    """Backbones that have results, in the order of the study."""
    return list(dict.fromkeys(row.cell.backbone for row in study.results))


def _summary(study: Study) -> Iterator[str]:
    cells = {row.cell for row in study.results}
    parts = (
        count(len(study.arms), "arm"),
        count(len({cell.backbone for cell in cells}), "backbone"),
        count(len({cell.fold for cell in cells}), "fold"),
        count(len({cell.seed for cell in cells}), "seed"),
    )
    yield f"The same data, recipe and number of steps for {', '.join(parts)}."
    target = study.config.get("target")
    for task, site in study.tested():
        if target is None or task == target:
            yield from _findings(study, task, site)


def _findings(study: Study, task: str, site: str) -> Iterator[str]:
    """Say what the reference reached and how far each arm that shares tasks differs from it."""
    space = study.spaces[task]
    pairs = paired_differences(study, task, site)
    if study.reference is None or not pairs:
        yield f"{task} at {site}: no arm has been compared with a single-task arm yet."
        return
    base = mean_of(list(study.values(study.reference, site, task, space.primary).values()))
    said = []
    for arm in ("federated", "pooled"):
        mean = mean_of(list(pairs.get(arm, {}).values()))
        if mean is None:
            continue
        low, high = mean.low, mean.high
        if low is None or high is None:
            verdict = "one cell: no interval"
        elif low <= 0 <= high:
            verdict = "not distinguishable from no difference"
        else:
            better = (mean.value > 0) == (space.primary_is_better_when == "higher")
            verdict = "better" if better else "worse"
        interval = "" if low is None else f" {mean.interval}"
        said.append(f"{arm} differs by {signed(mean.value)}{interval} ({verdict})")
    name = metric_name(space.primary)
    yield f"{task} at {site}: {study.reference} has {name} {base}; {'; '.join(said) or 'no more'}."


def _results(study: Study) -> Iterator[Block]:
    backbones = _backbones(study)
    for task, site in study.tested():
        if len(backbones) > 1:
            yield backbone_table(study, task, site, backbones)
            tables = [arm_table(study, task, site, backbone) for backbone in backbones]
            yield Details(f"{task} at {site}: every metric of every backbone", tables)
        else:
            yield from (arm_table(study, task, site, backbone) for backbone in backbones)


def _differences(study: Study) -> Iterator[Block]:
    colours = arm_colours(study.arms)
    for task, site in study.tested():
        if pairs := paired_differences(study, task, site):
            yield difference_table(study, task, site, pairs)
            name = metric_name(study.spaces[task].primary)
            caption = f"{task} at {site}: each arm minus {study.reference}, cell by cell."
            yield difference_figure(caption, pairs, colours, f"difference in {name}")


def _predictions(study: Study) -> Iterator[Block]:
    """Figures of the first backbone, then those of the others, folded."""
    for number, backbone in enumerate(_backbones(study)):
        blocks = [
            block
            for task, site in study.tested()
            if (arms := _cells(study, task, site, backbone))
            for block in _prediction_figures(study, task, site, arms)
        ]
        if blocks and number == 0:
            yield Paragraph(f"Test images of all folds; backbone {backbone}.")
            yield from blocks
        elif blocks:
            yield Details(f"Backbone {backbone}", blocks)


def _cells(study: Study, task: str, site: str, backbone: str) -> dict[str, dict[str, list[Cell]]]:
    """Arm → seed → test predictions in every fold."""
    found: dict[str, dict[str, list[Cell]]] = {}
    for arm in study.arms:
        for name, cell in study.predictions.get((arm, site, task), {}).items():
            if name.backbone == backbone:
                found.setdefault(arm, {}).setdefault(name.seed, []).append(cell)
    return found


def _prediction_figures(
    study: Study, task: str, site: str, arms: Mapping[str, Mapping[str, Sequence[Cell]]]
) -> Iterator[Block]:
    space, colours = study.spaces[task], arm_colours(study.arms)
    seed = next(iter(next(iter(arms.values()))))
    every = {arm: [cell for cells in by.values() for cell in cells] for arm, by in arms.items()}
    one_seed = {arm: by[seed] for arm, by in arms.items() if seed in by}
    where = f"{task} at {site}"
    once = f"Each image counts once: seed {seed}."
    if space.kind in ("classification", "multilabel"):
        for output in _shown_outputs(space):
            name = space.labels[output]
            yield roc_figure(
                f"{where}: ROC curves of {name}, averaged over cells. Band and brackets: 95 %"
                f" patient-level bootstrap. Dashed: {study.reference}.",
                *(every, output, colours, study.reference),
            )
            yield calibration_figure(
                f"{where}: calibration of {name}. Images in groups of similar probability; bars:"
                f" Wilson's 95 % intervals. {once}",
                *(one_seed, output, colours),
            )
    if space.kind == "classification":
        caption = f"{where}: confusion matrices, shares of the true class. {once}"
        yield confusion_figure(caption, one_seed, space.labels)
    if space.kind in ("regression", "ordinal"):
        caption = f"{where}: MAE of each output; lines: 95 % patient-level bootstrap, over cells."
        yield output_figure(caption, every, space.labels, colours)
    if space.summable:
        caption = (
            f"{where}: predicted against true global score. Black: median and quartiles of the"
            f" predictions at each true score. {once}"
        )
        yield score_figure(caption, one_seed, _highest_score(space), colours)


def _shown_outputs(space: Task) -> Sequence[int]:
    """The positive class of two; every class or finding otherwise."""
    two_classes = space.kind == "classification" and len(space.labels) == 2
    return [1] if two_classes else range(len(space.labels))


def _highest_score(space: Task) -> float:
    facts: dict[str, Any] = space.model_dump()
    highest = facts["levels"] - 1 if space.kind == "ordinal" else facts["range"][1]
    return float(highest) * len(space.labels)


def _setup(study: Study) -> Iterator[Block]:
    if study.facts:
        yield from fold_blocks(study.facts)
        yield from versions_paragraph(study.facts.get("versions", {}))
    if study.cells:
        yield cost_table(study)
    yield from config_blocks(study.config)
