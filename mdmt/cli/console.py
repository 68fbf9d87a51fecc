"""Where commands write: results to standard output, progress to standard error."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

__all__ = ["log_to_stderr", "new_table", "progress_console", "result_console"]

_LOG_WIDTH = 160
"""Columns where there is no terminal: a table in a log is not truncated."""


def result_console() -> Console:
    """Console of results; plain text when standard output is not a terminal."""
    return _console(stderr=False)


def progress_console() -> Console:
    """Console of progress; plain lines when standard error is not a terminal."""
    return _console(stderr=True)


def log_to_stderr() -> None:
    """Show the log of a service on standard error; Flower's own loggers write to their files."""
    import logging

    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%Y-%m-%d %H:%M:%S"))
    for room in ("mdmt", "client", "server"):
        logger = logging.getLogger(room)
        logger.setLevel(logging.INFO)
        logger.handlers, logger.propagate = [handler], False


def _console(*, stderr: bool) -> Console:
    from rich.console import Console

    console = Console(stderr=stderr, highlight=False, markup=False, soft_wrap=True)
    if not console.is_terminal:
        console.width = _LOG_WIDTH
    return console


def new_table(title: str, *columns: str) -> Table:
    """Build an empty table; a column whose name starts with ``>`` is aligned to the right."""
    from rich import box
    from rich.table import Table

    table = Table(
        title=f"\n{title}",
        title_justify="left",
        box=box.SIMPLE_HEAD,
        pad_edge=False,  # results must fit into 80 columns
        show_edge=False,
    )
    for column in columns:
        right = column.startswith(">")
        table.add_column(
            column.removeprefix(">"), justify="right" if right else "left", overflow="fold"
        )
    return table
