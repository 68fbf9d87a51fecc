"""A study's predictions as figures: one panel per arm, so that bands do not hide one another."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from mdmt.report.curves import calibration_bins, patient_interval, roc_with_band
from mdmt.report.page import Figure, Legend, Panel
from mdmt.report.plots import (
    Estimate,
    Line,
    plot_bars,
    plot_differences,
    plot_lines,
    plot_matrix,
    plot_scores,
)
from mdmt.report.tables import mean_of
from mdmt.report.words import count, signed
from mdmt.results.predictions import Predictions

__all__ = [
    "calibration_figure",
    "confusion_figure",
    "difference_figure",
    "output_figure",
    "roc_figure",
    "score_figure",
]

Arms = Mapping[str, Predictions]
"""Arm → its test predictions of one task, site, backbone and seed."""


def difference_figure(
    caption: str,
    rows: Mapping[str, Sequence[float]],
    colours: Mapping[str, str],
    x_label: str,
) -> Figure:
    """Draw each arm's paired differences: a dot per test set, a diamond for their mean."""
    estimates = []
    for arm, values in rows.items():
        mean = mean_of(values)
        assert mean is not None, "arms without a matched cell are left out"
        estimates.append(Estimate(arm, mean.value, mean.low, mean.high, colours[arm]))
    alt = "; ".join(f"{one.name} {signed(one.value)}" for one in estimates)
    panel = Panel("Dots: test sets; diamond: mean", plot_differences(rows, estimates, x_label), alt)
    return Figure(caption, [panel])


def roc_figure(
    caption: str,
    arms: Arms,
    output: int,
    colours: Mapping[str, str],
    reference: str | None,
    intervals: Mapping[str, tuple[float | None, float | None]],
) -> Figure:
    """Draw each arm's ROC curve with its band, and the reference's beside it.

    `intervals` are those of the areas, where the study has them.
    """
    curves = {
        arm: roc
        for arm, tested in arms.items()
        if np.isfinite((roc := roc_with_band(tested, output)).area)
    }
    panels = []
    for arm, roc in curves.items():
        lines = []
        if reference in curves and arm != reference:
            other = curves[reference]
            dashed = Line(other.false_positive, other.true_positive, colours[reference], dash="--")
            lines.append(dashed)
        lines.append(
            Line(roc.false_positive, roc.true_positive, colours[arm], low=roc.low, high=roc.high)
        )
        area = f"AUROC {roc.area:.3f}"
        low, high = intervals.get(arm, (None, None))
        if low is not None and high is not None:
            area += f" [{low:.3f}, {high:.3f}]"
        svg = plot_lines(
            lines,
            "false-positive rate",
            "true-positive rate",
            diagonal=True,
            x_limits=(0, 1),
            y_limits=(0, 1.01),
        )
        panels.append(Panel(f"{arm}: {area}", svg, f"ROC curve of {arm}, {area}"))
    return Figure(caption, panels, _legend(curves, colours))


def calibration_figure(caption: str, arms: Arms, output: int, colours: Mapping[str, str]) -> Figure:
    """Draw the share of positives against the predicted probability, for each arm."""
    panels = []
    for arm, tested in arms.items():
        truth, predicted = tested.truth[:, output], tested.predictions[:, output]
        labelled = np.isfinite(truth)
        bins = calibration_bins(truth[labelled] == 1, predicted[labelled])
        line = Line(
            [one.predicted for one in bins],
            [one.observed for one in bins],
            colours[arm],
            low=np.array([one.low for one in bins]),
            high=np.array([one.high for one in bins]),
            marker="o",
            bars=True,
            width=1.2,
        )
        svg = plot_lines(
            [line],
            "predicted probability",
            "observed share",
            diagonal=True,
            x_limits=(-0.02, 1.02),
            y_limits=(-0.02, 1.02),
        )
        alt = "; ".join(f"predicted {b.predicted:.2f}, observed {b.observed:.2f}" for b in bins)
        panels.append(Panel(arm, svg, f"Calibration of {arm}: {alt}"))
    return Figure(caption, panels)


def confusion_figure(caption: str, arms: Arms, classes: Sequence[str]) -> Figure:
    """Draw each arm's confusion matrix; the class of the highest probability is chosen."""
    panels = []
    for arm, tested in arms.items():
        counts = np.zeros((len(classes), len(classes)), dtype=int)
        labelled = np.isfinite(tested.targets[:, 0])
        truth = tested.targets[labelled, 0].astype(int)
        np.add.at(counts, (truth, tested.predictions[labelled].argmax(axis=1)), 1)
        alt = "; ".join(
            f"true {classes[row]}, predicted {classes[column]}: {number}"
            for (row, column), number in np.ndenumerate(counts)
        )
        panels.append(Panel(arm, plot_matrix(counts, classes), alt))
    return Figure(caption, panels)


def output_figure(
    caption: str, arms: Arms, outputs: Sequence[str], colours: Mapping[str, str]
) -> Figure:
    """Draw the MAE of each output (zone) of each arm, with patient-level intervals."""
    bars = {}
    for arm, tested in arms.items():
        errors = np.abs(tested.predictions - tested.targets)
        mean, low, high = patient_interval(tested.patients, errors)
        bars[arm] = [
            Estimate(f"{arm}, {name}", mean[k], _or_none(low[k]), _or_none(high[k]), colours[arm])
            if np.isfinite(mean[k])
            else None
            for k, name in enumerate(outputs)
        ]
    alt = "; ".join(f"{one.name} {one.value:.3f}" for row in bars.values() for one in row if one)
    svg = plot_bars(outputs, bars, "MAE")
    return Figure(caption, [Panel("MAE of each output", svg, alt)], _legend(bars, colours))


def score_figure(caption: str, arms: Arms, limit: float, colours: Mapping[str, str]) -> Figure:
    """Draw predicted against true global scores, the sums over outputs, of each arm."""
    panels = []
    for arm, tested in arms.items():
        truth, predicted = tested.targets.sum(axis=1), tested.predictions.sum(axis=1)
        complete = np.isfinite(truth) & np.isfinite(predicted)
        if not complete.any():
            continue
        error = np.abs(predicted - truth)[complete].mean()
        alt = f"{arm}: mean absolute error of the global score {error:.2f}"
        truth, predicted = truth[complete], predicted[complete]
        highest = limit if np.isfinite(limit) else float(max(truth.max(), predicted.max(), 1.0))
        svg = plot_scores(truth, predicted, colours[arm], highest)
        panels.append(Panel(f"{arm}: {count(int(complete.sum()), 'image')}", svg, alt))
    return Figure(caption, panels)


def _or_none(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None


def _legend(arms: Mapping[str, object], colours: Mapping[str, str]) -> Legend:
    return [(arm, colours[arm]) for arm in arms]
