"""What all commands share: results on standard output, progress and errors on standard error."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from mdmt.errors import MDMTError

if TYPE_CHECKING:  # rich is loaded by commands that print more than a line
    from rich.console import Console, RenderableType
    from rich.table import Table

INTERRUPTED = 130
"""128 + SIGINT, as in shells."""
_LOG_WIDTH = 160
"""Columns without a terminal, so that a table in a log is not truncated."""

_OVERRIDE = "Override a key, as in training.rounds=5 or, of a study, seeds=[0]."
FromRound = Annotated[
    int | None,
    typer.Option(
        min=0,
        metavar="N",
        help="With --resume: forget all rounds after round N, one of the kept rounds.",
    ),
]
Overrides = Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help=_OVERRIDE)]


class Commands(TyperGroup):
    """Commands whose errors are one line on standard error and an exit code."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command."""
        try:
            return super().invoke(ctx)
        except MDMTError as error:
            raise _failed(str(error), error.exit_code) from error
        except KeyboardInterrupt as error:
            raise _failed("interrupted", INTERRUPTED) from error
        except BrokenPipeError:  # the reader of a pipe has closed it: not an error
            raise
        except OSError as error:  # a full disk or a read-only folder
            reason = f"{error.filename}: {error.strerror}" if error.filename else str(error)
            raise _failed(reason, 1) from error


def _failed(message: str, code: int) -> typer.Exit:
    typer.echo(f"error: {' '.join(message.split())}", err=True)
    return typer.Exit(code)


def show_results(*results: RenderableType) -> None:
    """Print results; plain text when standard output is not a terminal."""
    for result in results:
        _console(stderr=False).print(result)


def progress_console() -> Console:
    """Console of progress; plain lines when standard error is not a terminal."""
    return _console(stderr=True)


def log_to_stderr() -> None:
    """Show the log of a service on standard error; Flower's own loggers write to their files."""
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

    table = Table(title=f"\n{title}", title_justify="left", box=box.SIMPLE_HEAD)
    table.pad_edge = table.show_edge = False  # results must fit into 80 columns
    for column in columns:
        name = column.removeprefix(">")
        table.add_column(name, justify="left" if name == column else "right", overflow="fold")
    return table
