"""What every arm predicted for the test images of all folds, as figures."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from mdmt.report.canvas import arm_colours
from mdmt.report.figures import (
    calibration_figure,
    confusion_figure,
    output_figure,
    roc_figure,
    score_figure,
)
from mdmt.report.page import Block, Details
from mdmt.report.words import at
from mdmt.results.predictions import Predictions
from mdmt.results.studies import Study

__all__ = ["prediction_blocks"]


def prediction_blocks(study: Study) -> Iterator[Block]:
    """Figures of the first backbone and seed; those of the other backbones are folded."""
    seed = next((row.cell.seed for row in study.results), 0)
    for number, backbone in enumerate(study.backbones):
        blocks: list[Block] = []
        for task, site in study.tested():
            key: dict[str, str | int] = {
                "backbone": backbone,
                "seed": seed,
                "site": site,
                "task": task,
            }
            found = {one.arm: one for one in study.predictions if one.key == key}
            if found:
                arms = {arm: found[arm] for arm in study.arms if arm in found}
                blocks += _figures(study, task, site, arms, _intervals(study, key))
        if blocks and number == 0:
            yield (
                "Unit of analysis: the patient. Test predictions of all folds, backbone"
                f" {backbone}, seed {seed}; intervals draw patients with all their images."
            )
            yield from blocks
        elif blocks:
            yield Details(f"Backbone {backbone}", blocks)


def _intervals(
    study: Study, key: Mapping[str, str | int]
) -> dict[str, tuple[float | None, float | None]]:
    """The patient table's intervals of the primary metric, by arm."""
    return {row["arm"]: (row["low"], row["high"]) for row in study.statistic("intervals", **key)}


def _figures(
    study: Study,
    task: str,
    site: str,
    arms: Mapping[str, Predictions],
    intervals: Mapping[str, tuple[float | None, float | None]],
) -> Iterator[Block]:
    space, colours, where = study.spaces[task], arm_colours(study.arms), at(task, site)
    for output in space.binary_outputs:
        name = space.labels[output]
        dashed = f" Dashed: {study.reference}." if study.reference in arms else ""
        caption = (
            f"{where}: ROC curves of {name}, the mean of the folds' curves. Band and brackets:"
            f" 95 % intervals.{dashed}"
        )
        # The primary metric of several classes is the mean of their areas.
        of_area = intervals if len(space.binary_outputs) == 1 else {}
        yield roc_figure(caption, arms, output, colours, study.reference, of_area)
        caption = (
            f"{where}: calibration of {name}. Images in groups of similar probability, with"
            " Wilson's 95 % intervals of independent images."
        )
        yield calibration_figure(caption, arms, output, colours)
    if space.exclusive:
        caption = f"{where}: confusion matrices, in images and shares of the true class."
        yield confusion_figure(caption, arms, space.labels)
    if not space.binary_outputs:
        caption = f"{where}: MAE of each output, with 95 % intervals."
        yield output_figure(caption, arms, space.labels, colours)
    if space.summable:
        caption = (
            f"{where}: predicted against true global score. Black: median and quartiles of the"
            " predictions at each true score."
        )
        yield score_figure(caption, arms, space.bounds[1] * len(space.labels), colours)
