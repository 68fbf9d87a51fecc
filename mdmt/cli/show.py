"""``mdmt show`` and ``mdmt report``: the folder of a run or a study, as tables or as a page."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mdmt.cli.console import show_results

__all__ = ["report", "show"]


def show(run: Annotated[Path, typer.Argument(help="Run directory, such as runs/demo.")]) -> None:
    """Show the sites, results and cost of a run, finished or not."""
    from mdmt.cli.tables import run_tables, site_tables

    show_results(*site_tables(run), *run_tables(run))


def report(
    folder: Annotated[Path, typer.Argument(help="Folder of a run or a study, such as runs/demo.")],
) -> None:
    """Write report.html into a run or a study: results, plots, caveats, in one file."""
    from mdmt.report import write_report

    typer.echo(write_report(folder))
