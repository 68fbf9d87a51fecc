"""Plots as SVG that stands inside a page: one panel each, legible at the width of a phone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from mdmt.report.canvas import BLACK, GUIDE, draw_svg

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = [
    "Estimate",
    "Line",
    "plot_bars",
    "plot_differences",
    "plot_estimates",
    "plot_lines",
    "plot_matrix",
    "plot_scores",
]


@dataclass(frozen=True)
class Line:
    """A curve (N,), and the band between `low` and `high` around it."""

    x: Sequence[float] | NDArray[np.floating]
    y: Sequence[float] | NDArray[np.floating]
    colour: str
    low: NDArray[np.floating] | None = None
    high: NDArray[np.floating] | None = None
    width: float = 2.0
    dash: str = "-"
    marker: str = ""
    bars: bool = False
    """Draw `low` to `high` as a bar at every point."""


@dataclass(frozen=True)
class Estimate:
    """A value with its interval, named."""

    name: str
    value: float
    low: float | None
    high: float | None
    colour: str


def plot_lines(
    lines: Sequence[Line],
    x_label: str,
    y_label: str,
    *,
    diagonal: bool = False,
    x_limits: tuple[float, float] | None = None,
    y_limits: tuple[float, float] | None = None,
    marks: Sequence[tuple[float, float, str, str]] = (),
    whole_x: bool = False,
) -> str:
    """Draw curves over one another.

    `marks` are points (x, y, text, colour) to ring; with `whole_x` the x-axis counts, and has no
    tick between two whole numbers.
    """

    def draw(axes: Axes) -> None:
        if diagonal:
            axes.plot((0, 1), (0, 1), color=GUIDE, linewidth=1, linestyle=":")
        for line in lines:
            axes.plot(
                line.x,
                line.y,
                color=line.colour,
                linewidth=line.width,
                linestyle=line.dash,
                marker=line.marker,
                markersize=4,
            )
            if line.low is None or line.high is None:
                continue
            if line.bars:
                axes.vlines(line.x, line.low, line.high, color=line.colour, linewidth=1.2)
            else:
                axes.fill_between(line.x, line.low, line.high, color=line.colour, alpha=0.18, lw=0)
        for x, y, text, colour in marks:
            axes.plot(x, y, "o", color=colour, markerfacecolor="none", markersize=9, mew=1.5)
            axes.annotate(
                text, (x, y), xytext=(0, 9), textcoords="offset points", ha="center", va="bottom"
            )
        axes.set(xlim=x_limits, ylim=y_limits)
        if whole_x:
            axes.locator_params(axis="x", integer=True)
        if marks:
            axes.margins(y=0.2)

    return draw_svg(draw, x_label, y_label)


def plot_estimates(
    estimates: Sequence[Estimate], x_label: str, reference: float | None = None
) -> str:
    """Draw named values with their intervals, one below the other."""

    def draw(axes: Axes) -> None:
        if reference is not None:
            axes.axvline(reference, color=GUIDE, linewidth=1, linestyle=":")
        for row, one in enumerate(estimates):
            if one.low is not None and one.high is not None:
                axes.hlines(row, one.low, one.high, color=one.colour, linewidth=2.5)
            axes.plot(one.value, row, "o", color=one.colour, markersize=7)
        _name_rows(axes, [one.name for one in estimates])

    return draw_svg(draw, x_label, "", height=70 + 30 * len(estimates))


def plot_differences(
    rows: Mapping[str, Sequence[float] | NDArray[np.floating]],
    estimates: Sequence[Estimate],
    x_label: str,
) -> str:
    """Draw each row's paired differences as dots, and below them their mean with its interval.

    Parameters
    ----------
    rows : mapping of str to sequence of float
        One difference per matched cell.
    estimates : sequence of Estimate
        The mean of each row, in the same order.
    x_label : str
    """

    def draw(axes: Axes) -> None:
        axes.axvline(0, color=BLACK, linewidth=1)
        for row, (values, one) in enumerate(zip(rows.values(), estimates, strict=True)):
            # Dots of equal value would hide one another.
            offsets = np.linspace(-0.12, 0.12, len(values)) if len(values) > 1 else np.zeros(1)
            axes.plot(values, row - 0.18 + offsets, "o", color=one.colour, alpha=0.55, ms=4, mew=0)
            if one.low is not None and one.high is not None:
                axes.hlines(row + 0.22, one.low, one.high, color=one.colour, linewidth=2.5)
            axes.plot(one.value, row + 0.22, "D", color=one.colour, markersize=7)
        _name_rows(axes, list(rows))

    return draw_svg(draw, x_label, "", height=80 + 55 * len(rows))


def plot_bars(
    groups: Sequence[str], bars: Mapping[str, Sequence[Estimate | None]], y_label: str
) -> str:
    """Draw bars in groups: for each series, a value with its interval in every group."""

    def draw(axes: Axes) -> None:
        width = 0.8 / len(bars)
        for k, series in enumerate(bars.values()):
            for group, one in enumerate(series):
                if one is None:
                    continue
                x = group + (k - (len(bars) - 1) / 2) * width
                axes.bar(x, one.value, width * 0.92, color=one.colour)
                if one.low is not None and one.high is not None:
                    axes.vlines(x, one.low, one.high, color=BLACK, linewidth=1)
        axes.set_xticks(range(len(groups)), groups)
        axes.grid(visible=False, axis="x")

    return draw_svg(draw, "", y_label)


def plot_matrix(counts: NDArray[np.integer], names: Sequence[str]) -> str:
    """Draw a confusion matrix: a row per true class, shaded by its share of that class."""

    def draw(axes: Axes) -> None:
        totals = counts.sum(axis=1, keepdims=True)
        shares = counts / np.maximum(totals, 1)
        axes.pcolormesh(shares, cmap="Blues", vmin=0, vmax=1, edgecolors="white", linewidth=2)
        for (row, column), count in np.ndenumerate(counts):
            colour = "white" if shares[row, column] > 0.55 else BLACK
            text = f"{count}\n{shares[row, column]:.0%}"
            axes.text(column + 0.5, row + 0.5, text, ha="center", va="center", color=colour)
        middles = np.arange(len(names)) + 0.5
        axes.set_xticks(middles, names)
        axes.set_yticks(middles, names)
        axes.invert_yaxis()
        axes.grid(visible=False)
        axes.tick_params(length=0)

    return draw_svg(draw, "predicted", "true")


def plot_scores(
    truth: NDArray[np.floating], predicted: NDArray[np.floating], colour: str, limit: float
) -> str:
    """Draw predicted against true scores, both (N,): dots if few, and quartiles per true score."""

    def draw(axes: Axes) -> None:
        axes.plot((0, limit), (0, limit), color=GUIDE, linewidth=1, linestyle=":")
        if len(truth) <= _MANY_DOTS:
            axes.plot(truth, predicted, "o", color=colour, alpha=0.3, markersize=3.5, mew=0)
        for score in np.unique(truth):
            quartiles = np.quantile(predicted[truth == score], (0.25, 0.5, 0.75))
            axes.vlines(score, quartiles[0], quartiles[2], color=BLACK, linewidth=1.5)
            axes.plot(score, quartiles[1], "_", color=BLACK, markersize=7, mew=2)
        axes.set(xlim=(-0.03 * limit, 1.03 * limit), ylim=(-0.03 * limit, 1.03 * limit))
        axes.locator_params(integer=True)

    return draw_svg(draw, "true global score", "predicted", height=300)


_MANY_DOTS = 600
"""More dots than this only blacken a panel and make the page heavy."""


def _name_rows(axes: Axes, names: Sequence[str]) -> None:
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.grid(visible=False, axis="y")
    axes.tick_params(axis="y", length=0)
