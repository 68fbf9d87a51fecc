"""Predictions and differences of a study's arms as figures."""

from collections.abc import Mapping, Sequence

import numpy as np

from mdmt.metrics import bootstrap
from mdmt.report.canvas import BLACK, GUIDE, Estimate, name_rows, panel
from mdmt.report.curves import calibration_bins, roc_with_band
from mdmt.report.decisions import decided
from mdmt.report.page import Figure, Legend, Panel
from mdmt.report.words import count, signed
from mdmt.results.predictions import Predictions
from mdmt.results.statistics import mean_of
from mdmt.tasks.base import FloatArray

Arms = Mapping[str, Predictions]
"""Arm → its test predictions of one task, site, backbone and seed."""
Colours = Mapping[str, str]

_MANY_DOTS = 600
"""More dots than this only blacken a panel and make the page heavy."""


def difference_figure(
    caption: str, rows: Mapping[str, Sequence[float]], colours: Colours, x_label: str
) -> Figure:
    """Draw each arm's paired differences: a dot per test set, a diamond for their mean."""
    panels: list[Panel] = []
    alt = "; ".join(f"{arm} {signed(mean_of(values).value)}" for arm, values in rows.items())
    title, height = "Dots: test sets; diamond: mean", 80 + 55 * len(rows)
    with panel(panels, title, x_label, "", alt=alt, height=height) as axes:
        axes.axvline(0, color=BLACK, linewidth=1)
        for row, (arm, values) in enumerate(rows.items()):
            mean, colour = mean_of(values), colours[arm]
            # Dots of equal value would hide one another.
            offsets = np.linspace(-0.12, 0.12, len(values)) if len(values) > 1 else np.zeros(1)
            axes.plot(values, row - 0.18 + offsets, "o", color=colour, alpha=0.55, ms=4, mew=0)
            if mean.low is not None and mean.high is not None:
                axes.hlines(row + 0.22, mean.low, mean.high, color=colour, linewidth=2.5)
            axes.plot(mean.value, row + 0.22, "D", color=colour, markersize=7)
        name_rows(axes, list(rows))
    return Figure(caption, panels)


def roc_figure(
    caption: str,
    arms: Arms,
    output: int,
    colours: Colours,
    reference: str | None,
    intervals: Mapping[str, tuple[float | None, float | None]],
) -> Figure:
    """Draw the ROC curve of each arm with its band, and the curve of the reference arm.

    Dotted: chance. The ring is where the arm decides (`decided`). `intervals` are those of the
    areas, if they are known.
    """
    found = {arm: roc_with_band(tested, output) for arm, tested in arms.items()}
    curves = {arm: roc for arm, roc in found.items() if roc is not None}
    panels: list[Panel] = []
    for arm, roc in curves.items():
        area = f"AUROC {roc.area:.3f}"
        low, high = intervals.get(arm, (None, None))
        if low is not None and high is not None:
            area += f" [{low:.3f}, {high:.3f}]"
        labels = f"{arm}: {area}", "false-positive rate", "true-positive rate"
        with panel(panels, *labels, alt=f"ROC curve of {arm}, {area}") as axes:
            axes.plot((0, 1), (0, 1), **GUIDE)
            if reference is not None and reference in curves and arm != reference:
                other = curves[reference]
                axes.plot(other.false_positive, other.true_positive, "--", color=colours[reference])
            axes.plot(roc.false_positive, roc.true_positive, color=colours[arm], linewidth=2)
            band = roc.false_positive, roc.low, roc.high
            axes.fill_between(*band, color=colours[arm], alpha=0.18, lw=0)
            point = _operating_point(arms[arm], output)
            axes.plot(*point, "o", color=colours[arm], mfc="none", ms=9, mew=2)
            axes.set(xlim=(0, 1), ylim=(0, 1.01))
    return Figure(caption, panels, _legend(curves, colours))


def _operating_point(tested: Predictions, output: int) -> tuple[float, float]:
    """False- and true-positive rate of the decisions of a model."""
    truth, said = tested.truth[:, output], decided(tested, output)
    return float(said[truth == 0].mean()), float(said[truth == 1].mean())


def calibration_figure(caption: str, arms: Arms, output: int, colours: Colours) -> Figure:
    """Draw the share of positives against the predicted probability, for each arm."""
    panels: list[Panel] = []
    for arm, tested in arms.items():
        truth, predicted = tested.truth[:, output], tested.predictions[:, output]
        rows = np.isfinite(truth) & np.isfinite(predicted)
        if not rows.any():
            continue
        bins = calibration_bins(truth[rows] == 1, predicted[rows])
        alt = "; ".join(f"predicted {b.predicted:.2f}, observed {b.observed:.2f}" for b in bins)
        alt = f"Calibration of {arm}: {alt}"
        with panel(panels, arm, "predicted probability", "observed share", alt=alt) as axes:
            axes.plot((0, 1), (0, 1), **GUIDE)
            means, shares, low, high, _ = zip(*bins, strict=True)
            axes.plot(means, shares, "o-", color=colours[arm], linewidth=1.2, markersize=4)
            axes.vlines(means, low, high, color=colours[arm], linewidth=1.2)
            axes.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02))
    return Figure(caption, panels)


def confusion_figure(caption: str, arms: Arms, classes: Sequence[str]) -> Figure:
    """Draw each arm's confusion matrix; the class of the highest probability is chosen."""
    from sklearn.metrics import confusion_matrix

    panels: list[Panel] = []
    for arm, tested in arms.items():
        rows = np.isfinite(tested.targets[:, 0])
        truth, chosen = tested.targets[rows, 0], tested.predictions[rows].argmax(axis=1)
        counts = confusion_matrix(truth, chosen, labels=np.arange(len(classes)))
        shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
        alt = "; ".join(
            f"true {classes[row]}, predicted {classes[column]}: {number}"
            for (row, column), number in np.ndenumerate(counts)
        )
        with panel(panels, arm, "predicted", "true", alt=alt) as axes:
            axes.pcolormesh(shares, cmap="Blues", vmin=0, vmax=1, edgecolors="white", linewidth=2)
            for (row, column), number in np.ndenumerate(counts):
                colour = "white" if shares[row, column] > 0.55 else "black"  # on the map's colours
                text = f"{number}\n{shares[row, column]:.0%}"
                axes.text(column + 0.5, row + 0.5, text, ha="center", va="center", color=colour)
            axes.set_xticks(np.arange(len(classes)) + 0.5, classes)
            axes.set_yticks(np.arange(len(classes)) + 0.5, classes)
            axes.invert_yaxis()
            axes.grid(visible=False)
            axes.tick_params(length=0)
    return Figure(caption, panels)


def output_figure(caption: str, arms: Arms, outputs: Sequence[str], colours: Colours) -> Figure:
    """Draw the MAE of each output (zone) of each arm, with patient-level intervals."""
    bars = {}
    for arm, tested in arms.items():
        errors = np.abs(tested.predictions - tested.targets)
        ends = bootstrap(
            lambda index, errors=errors: _column_means(errors[index]),  # type: ignore[misc]
            tested.patients,
            seed=0,
        )
        values = np.transpose([_column_means(errors), *ends]).tolist()
        bars[arm] = [
            Estimate(f"{arm}, {name}", value, low, high, colours[arm])
            for name, (value, low, high) in zip(outputs, values, strict=True)
        ]
    panels: list[Panel] = []
    draw_bars(panels, "MAE of each output", outputs, bars)
    return Figure(caption, panels, _legend(bars, colours))


def draw_bars(
    panels: list[Panel], title: str, groups: Sequence[str], bars: Mapping[str, Sequence[Estimate]]
) -> None:
    """Draw MAEs as bars in groups: for each series, a value with its interval in every group."""
    shown = [one for series in bars.values() for one in series if np.isfinite(one.value)]
    with panel(panels, title, "", "MAE", alt="; ".join(map(str, shown))) as axes:
        width = 0.8 / len(bars)
        for number, series in enumerate(bars.values()):
            x = np.arange(len(groups)) + (number - (len(bars) - 1) / 2) * width
            axes.bar(x, [one.value for one in series], width * 0.92, color=series[0].colour)
            for place, one in zip(x, series, strict=True):
                if one.interval is not None:
                    axes.vlines(place, *one.interval, color=BLACK, linewidth=1)
        axes.set_xticks(range(len(groups)), groups)
        axes.grid(visible=False, axis="x")


def score_figure(caption: str, arms: Arms, limit: float, colours: Colours) -> Figure:
    """Draw predicted against true global scores, the sums over outputs, of each arm.

    A dot for each image if they are few, and the quartiles of the predictions at each true score.
    """
    panels: list[Panel] = []
    for arm, tested in arms.items():
        truth, predicted = tested.targets.sum(axis=1), tested.predictions.sum(axis=1)
        complete = np.isfinite(truth) & np.isfinite(predicted)
        if not complete.any():
            continue
        truth, predicted = truth[complete], predicted[complete]
        top = limit if np.isfinite(limit) else float(max(truth.max(), predicted.max()))
        error = np.abs(predicted - truth).mean()
        alt = f"{arm}: mean absolute error of the global score {error:.2f}"
        labels = f"{arm}: {count(len(truth), 'image')}", "true global score", "predicted"
        with panel(panels, *labels, alt=alt, height=300) as axes:
            axes.plot((0, top), (0, top), **GUIDE)
            if len(truth) <= _MANY_DOTS:
                axes.plot(truth, predicted, "o", color=colours[arm], alpha=0.3, ms=3.5, mew=0)
            for score in np.unique(truth):
                quartiles = np.quantile(predicted[truth == score], (0.25, 0.5, 0.75))
                axes.vlines(score, quartiles[0], quartiles[2], color=BLACK, linewidth=1.5)
                axes.plot(score, quartiles[1], "_", color=BLACK, markersize=7, mew=2)
            ends = -0.03 * top, 1.03 * top
            axes.set(xlim=ends, ylim=ends)
            axes.locator_params(integer=True)
    return Figure(caption, panels)


def _column_means(errors: FloatArray) -> FloatArray:
    """Mean of each column over its defined rows; NaN without any."""
    return np.asarray(np.ma.masked_invalid(errors).mean(axis=0).filled(np.nan))


def _legend(arms: Mapping[str, object], colours: Colours) -> Legend:
    return [(arm, colours[arm]) for arm in arms]
