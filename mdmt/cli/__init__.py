"""The command line. A file per group of commands; whatever is slow is imported inside them."""

from __future__ import annotations

from typing import Annotated

import typer

from mdmt import __version__
from mdmt.cli.errors import Commands
from mdmt.cli.init import init
from mdmt.cli.predict import predict
from mdmt.cli.report import report
from mdmt.cli.run import demo, simulate
from mdmt.cli.show import show
from mdmt.cli.validate import validate

__all__ = ["app", "main"]

app = typer.Typer(
    name="mdmt",
    cls=Commands,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
for command in (demo, simulate, show, report, validate, init, predict):
    app.command()(command)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"mdmt {__version__}")
        raise typer.Exit


@app.callback()
def _mdmt(
    version: Annotated[
        bool,
        typer.Option(
            "--version", help="Print the version.", callback=_print_version, is_eager=True
        ),
    ] = False,
) -> None:
    """Federated multi-dataset multi-task learning: every site brings its own labels.

    Exit codes: 0 done, 1 the run failed, 2 bad input, 130 interrupted.
    """


def main() -> None:
    """Run the command line."""
    app()
