"""The command line: one file per group of commands. Slow modules are imported inside commands."""

from typing import Annotated

import typer

from mdmt import __version__
from mdmt.cli.console import Commands
from mdmt.cli.evaluate import evaluate
from mdmt.cli.export import export
from mdmt.cli.init import init
from mdmt.cli.predict import predict
from mdmt.cli.run import demo, simulate
from mdmt.cli.server import provision, server
from mdmt.cli.show import report, show
from mdmt.cli.site import site
from mdmt.cli.study import study
from mdmt.cli.validate import validate

__all__ = ["app", "main"]

app = typer.Typer(
    name="mdmt",
    cls=Commands,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
for command in (demo, simulate, study, show, report, validate, init, predict, evaluate, export):
    app.command()(command)
app.command()(provision)
app.add_typer(site)
app.add_typer(server)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"mdmt {__version__}")
        raise typer.Exit


@app.callback()
def _mdmt(
    version: Annotated[
        bool, typer.Option("--version", help="Print it.", callback=_print_version, is_eager=True)
    ] = False,
) -> None:
    """Federated multi-dataset multi-task learning: every site brings its own labels.

    Exit codes: 0 done, 1 the run failed, 2 bad input, 130 interrupted.
    """


def main() -> None:
    """Run the command line."""
    app()
