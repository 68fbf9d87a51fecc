"""Where commands write: results to standard output, progress to standard error."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

__all__ = ["new_table", "progress_console", "result_console"]

_LOG_WIDTH = 160
"""Columns where no terminal says how many: a table in a log is not cut."""


def result_console() -> Console:
    """Console of results; plain text when standard output is not a terminal."""
    return _console(stderr=False)


def progress_console() -> Console:
    """Console of progress; plain lines when standard error is not a terminal."""
    return _console(stderr=True)


def _console(*, stderr: bool) -> Console:
    from rich.console import Console

    console = Console(stderr=stderr, highlight=False, markup=False, soft_wrap=True)
    if not console.is_terminal:
        console.width = _LOG_WIDTH
    return console


def new_table(title: str, *columns: str, caption: str | None = None) -> Table:
    """Build an empty table; a column whose name starts with ``>`` is aligned to the right."""
    from rich import box
    from rich.table import Table

    table = Table(title=title, caption=caption, box=box.SIMPLE_HEAD, title_justify="left")
    table.caption_justify = "left"
    for column in columns:
        table.add_column(
            column.removeprefix(">"), justify="right" if column.startswith(">") else "left"
        )
    return table
