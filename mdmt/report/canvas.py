"""How every plot looks (size, fonts, colours), and the SVG that it becomes."""

from __future__ import annotations

import hashlib
import io
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from mdmt.report.page import Panel

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_WIDTH, _HEIGHT = 340, 250
"""Size of a panel in CSS pixels."""

BLACK = "#1b1f24"
"""Ink: dark on a light page, light on a dark one."""
GUIDE: dict[str, Any] = {"color": "#8c959f", "linewidth": 1, "linestyle": ":"}
"""Style of lines that are not data: the diagonal, a reference."""

# Okabe and Ito's colours, which colour-blind readers can tell apart.
_ARMS = {
    "constant": "#6e7781",  # grey
    "metadata": "#cc79a7",  # purple
    "probe": "#8e6bbf",  # violet
    "local": "#0072b2",  # blue
    "finetune": "#e69f00",  # orange
    "average_init": "#56b4e9",  # sky
    "pooled": "#009e73",  # green
    "federated": "#d55e00",  # vermilion
}
_OTHERS = ("#8c6d1f", "#117733", "#a6611a", "#01665e", "#7b3294", "#4d4d4d")

_OF_PAGE = {
    BLACK: "currentColor",
    "#57606a": "var(--strong)",
    "#e3e7eb": "var(--grid)",
    GUIDE["color"]: "var(--guide)",
}
"""Colours that follow the page, which may be light or dark; those of data do not change."""

_STYLE = Path(__file__).parent / "templates" / "panel.mplstyle"


class Estimate(NamedTuple):
    """A named value with its interval, which may be unknown."""

    name: str
    value: float
    low: float | None
    high: float | None
    colour: str

    @property
    def interval(self) -> tuple[float, float] | None:
        """Both ends, if they are known."""
        return None if self.low is None or self.high is None else (self.low, self.high)

    def __str__(self) -> str:
        ends = self.interval
        text = f"{self.name} {self.value:.3f}"
        return text if ends is None else f"{text} ({ends[0]:.3f} to {ends[1]:.3f})"


def arm_colours(arms: Iterable[str]) -> dict[str, str]:
    """Give every arm one colour, the same in all plots of all reports."""
    others = iter(_OTHERS * 4)
    return {arm: _ARMS.get(arm) or next(others) for arm in arms}


@contextmanager
def panel(
    panels: list[Panel],
    title: str,
    x_label: str,
    y_label: str,
    *,
    alt: str,
    height: float = _HEIGHT,
) -> Iterator[Axes]:
    """Yield axes to draw on, and append the plot to `panels` when the block ends.

    Parameters
    ----------
    panels : list of Panel
    title, x_label, y_label : str
    alt : str
        What the plot shows, in words.
    height : float
        In CSS pixels.
    """
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    with rc_context(fname=_STYLE):
        figure = Figure(figsize=(_WIDTH / 72, height / 72), layout="constrained")
        axes = figure.subplots()
        yield axes
        axes.set(xlabel=x_label, ylabel=y_label)
        written = io.StringIO()
        nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
        figure.savefig(written, format="svg", metadata=nothing)
    panels.append(Panel(title, _inline(written.getvalue()), alt))


def name_rows(axes: Axes, names: Sequence[str]) -> None:
    """Name the rows 0, 1, ... of a plot, the first one at the top."""
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.grid(visible=False, axis="y")
    axes.tick_params(axis="y", length=0)


def _inline(svg: str) -> str:
    """Make an SVG file an element of a page; its ids differ from those of other plots."""
    svg = svg[svg.index("<svg") :]
    prefix = hashlib.sha256(svg.encode()).hexdigest()[:8]
    svg = re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>p{prefix}-", svg)
    for colour, of_page in _OF_PAGE.items():
        svg = svg.replace(colour, of_page)
    # Without width and height it takes its panel's; the namespaces are implied in HTML.
    return re.sub(
        r'<svg [^>]*(viewBox="[^"]*")[^>]*>', r"<svg \1 aria-hidden='true'>", svg, count=1
    )
