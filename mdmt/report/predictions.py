"""The test predictions of one task at one site as figures and tables, for runs and studies."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from mdmt.report import figures
from mdmt.report.agreement import agreement_figures
from mdmt.report.decisions import OPERATING_POINT, decision_table
from mdmt.report.page import Block
from mdmt.results.predictions import Predictions
from mdmt.tasks import Task


def prediction_figures(
    where: str,
    space: Task,
    arms: Mapping[str, Predictions],
    colours: Mapping[str, str],
    reference: str | None = None,
    intervals: Mapping[str, tuple[float | None, float | None]] | None = None,
) -> Iterator[Block]:
    """Yield what suits the kind of task: curves and decisions, or errors in its unit.

    Parameters
    ----------
    where : str
        Task and site, for captions.
    space : Task
    arms : mapping of str to Predictions
        Predictions of each arm.
    colours : mapping of str to str
    reference : str, optional
        The arm whose curve is drawn dashed beside the others.
    intervals : mapping, optional
        95 % interval of the primary metric of each arm.
    """
    for output in space.binary_outputs:
        name = space.prediction_names[output]
        dashed = f" Dashed: {reference}." if reference in arms else ""
        curves = "ROC curves of" if len(arms) > 1 else "ROC curve of"
        caption = (
            f"{where}: {curves} {name}, with 95 % bands over patients where there are enough."
            f" Dotted: chance. Ring: the decisions of the model ({OPERATING_POINT}).{dashed}"
        )
        # The primary metric of several classes is the mean of their areas.
        of_area = (intervals or {}) if len(space.binary_outputs) == 1 else {}
        yield figures.roc_figure(caption, arms, output, colours, reference, of_area)
        caption = (
            f"{where}: calibration of {name}. Images in groups of similar probability, with"
            " Wilson's 95 % intervals of independent images."
        )
        yield figures.calibration_figure(caption, arms, output, colours)
    if space.exclusive:
        caption = f"{where}: confusion matrices, in images and shares of the true class."
        yield figures.confusion_figure(caption, arms, space.labels)
    if space.binary_outputs:
        yield decision_table(f"{where}: decisions", arms)
        return
    if space.width > 1 or len(arms) > 1:
        caption = f"{where}: MAE of each output, with 95 % intervals."
        yield figures.output_figure(caption, arms, space.labels, colours)
    if space.summable:
        caption = (
            f"{where}: predicted against true global score. Lines: median and quartiles of the"
            " predictions at each true score."
        )
        yield figures.score_figure(caption, arms, space.bounds[1] * len(space.labels), colours)
    else:
        yield from agreement_figures(where, arms, colours)
