"""What all commands share: results on standard output, progress and errors on standard error."""

from __future__ import annotations

import logging
import re
from typing import TYPE_CHECKING, Annotated, Any

import typer
from click.exceptions import NoArgsIsHelpError, UsageError
from typer.core import TyperGroup

from mdmt.errors import MDMTError
from mdmt.nearest import nearest

if TYPE_CHECKING:  # rich is loaded by commands that print more than a line
    from rich.console import Console, RenderableType
    from rich.table import Table

USAGE = 2
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
        except NoArgsIsHelpError:
            raise
        except UsageError as error:
            raise _failed(_usage(error), USAGE) from error
        except KeyboardInterrupt as error:
            raise _failed(str(error) or "interrupted", INTERRUPTED) from error
        except BrokenPipeError:  # the reader of a pipe has closed it: not an error
            raise
        except OSError as error:  # a full disk or a read-only folder
            reason = f"{error.filename}: {error.strerror}" if error.filename else str(error)
            raise _failed(reason, 1) from error


def _usage(error: UsageError) -> str:
    """Describe a wrong command, option or value, and name the command whose help says more."""
    message = error.format_message().replace("'", "").rstrip(".")
    message = message.partition(" (Did you mean")[0] if "? (" in message else message
    first, *more = message.split(" Did you mean ")
    hint = f"; did you mean {more[0].rstrip('?')}?" if more else ""
    if choice := re.fullmatch(r".*: (\S+) is not one of (.+)", first):
        hint = nearest(choice[1], choice[2].split(", "))
    command = error.ctx.command_path if error.ctx else "mdmt"
    text = first[:1].lower() + first[1:].rstrip(".")
    return f"{text}{hint or ';'} see {command} --help"


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
