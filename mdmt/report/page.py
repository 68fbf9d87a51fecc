"""The parts of a report page, and how they become one HTML file."""

from __future__ import annotations

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
class Details:
    """Blocks, or text whose lines stay as they are, which a reader opens if needed."""

    title: str
    blocks: Sequence[Block] = ()
    text: str = ""


Block = str | list[str] | Table | Figure | Details
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
    """

    title: str
    kind: str
    summary: Sequence[str]
    caveats: Sequence[str]
    sections: Sequence[Section]


def render_page(page: Page) -> str:
    """Write `page` as HTML that needs nothing else: style and plots are inside.

    All text is escaped; only the plots, which we draw ourselves, are markup.
    """
    return render("mdmt.report", "report.html.j2", html=True, page=page, version=__version__)
