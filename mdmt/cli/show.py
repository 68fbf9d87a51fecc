"""``mdmt show``: tables of a run directory."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

__all__ = ["show"]


def show(run: Annotated[Path, typer.Argument(help="Run directory, such as runs/demo.")]) -> None:
    """Show the sites, results and cost of a run, finished or not."""
    from mdmt.cli.console import result_console
    from mdmt.cli.tables import result_tables, site_table
    from mdmt.results.runs import read_run

    found, console = read_run(run), result_console()
    if (sites := site_table(found)) is not None:
        console.print(sites)
    for table in result_tables(found):
        console.print(table)
