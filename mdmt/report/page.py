"""The parts of a report page, and how they become one HTML file."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from mdmt import __version__
from mdmt.files import render

Legend = Sequence[tuple[str, str]]
"""Names with their colours."""


@dataclass(frozen=True)
class Table:
    """A table whose first column names its rows.

    Attributes
    ----------
    caption : str
    header : sequence of str
    rows : sequence of sequence of str
    note : str
        Below the table: the unit of analysis, what brackets hold.
    words : frozenset of int
        Numbers of the columns that hold words, not numbers.
    emphasised : frozenset of int
        Numbers of the rows that sum up the others.
    """

    caption: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    note: str = ""
    words: frozenset[int] = frozenset()
    emphasised: frozenset[int] = frozenset()


@dataclass(frozen=True)
class Panel:
    """One plot: an SVG element, and the same in words for readers who cannot see it."""

    title: str
    svg: str
    alt: str


@dataclass(frozen=True)
class Figure:
    """Plots that share a caption and a legend."""

    caption: str
    panels: Sequence[Panel]
    legend: Legend = ()


@dataclass(frozen=True)
class ForestRow:
    """A gain with its interval: above 0 is better.

    Attributes
    ----------
    label : str
    value : float
    low, high : float or None
        None if there is no interval.
    verdict : str
        ``better``, ``worse`` or what is said if neither is shown.
    """

    label: str
    value: float
    low: float | None
    high: float | None
    verdict: str

    @property
    def shown(self) -> str:
        """The gain and its interval in words."""
        ends = (
            "" if self.low is None or self.high is None else f" [{self.low:+.3f}, {self.high:+.3f}]"
        )
        return f"{self.value:+.3f}{ends}".replace("-", "−")


@dataclass(frozen=True)
class Forest:
    """Gains on a common axis, which is as wide as the page. It is drawn by the style sheet."""

    caption: str
    bars: Sequence[ForestRow]
    note: str = ""

    @property
    def limit(self) -> float:
        """End of the axis: 1, 2 or 5 times a power of ten."""
        ends = [abs(end) for bar in self.bars for end in (bar.value, bar.low, bar.high) if end]
        largest = max(ends, default=1.0)
        power = 10.0 ** math.floor(math.log10(largest))
        return next(step * power for step in (1, 2, 5, 10) if step * power >= largest)

    def place(self, value: float) -> float:
        """Position of a value in per cent of the width."""
        return round(50 + 50 * value / self.limit, 2)


@dataclass(frozen=True)
class Details:
    """Blocks, or text whose lines stay as they are, which a reader opens if needed."""

    title: str
    blocks: Sequence[Block] = ()
    text: str = ""


Block = str | list[str] | Table | Figure | Forest | Details
"""A paragraph, a list of sentences, or one of the classes above."""


Section = tuple[str, str, Sequence[Block]]
"""An anchor that is unique in the page, a title, and the blocks below it."""


@dataclass(frozen=True)
class Page:
    """A whole report.

    Attributes
    ----------
    title : str
    kind : str
        What is reported: ``run`` or ``study``.
    summary : sequence of str
        The result in a few sentences.
    caveats : sequence of str
        What to keep in mind when reading it.
    sections : sequence of Section
        Those without blocks are left out.
    charts : sequence of Block
        Below the summary.
    """

    title: str
    kind: str
    summary: Sequence[str]
    caveats: Sequence[str]
    sections: Sequence[Section]
    charts: Sequence[Block] = ()


def render_page(page: Page) -> str:
    """Write `page` as HTML that needs nothing else: style and plots are inside.

    All text is escaped; only the plots, which we draw ourselves, are markup.
    """
    return render("mdmt.report", "report.html.j2", html=True, page=page, version=__version__)
