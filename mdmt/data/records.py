"""One record of a table file, as its reader found it."""

from __future__ import annotations

from typing import NamedTuple


class Record(NamedTuple):
    """The cells of a row.

    Attributes
    ----------
    number : int
        The line number in a text editor, or the row number in a spreadsheet.
    cells : list of str
    error : str or None
        Why the row cannot be used.
    warning : str or None
        Why the cells are perhaps not what the author of the table meant.
    """

    number: int
    cells: list[str]
    error: str | None = None
    warning: str | None = None
