"""``mdmt report``: a run or a study as one HTML file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

__all__ = ["report"]


def report(
    folder: Annotated[Path, typer.Argument(help="Folder of a run or a study, such as runs/demo.")],
) -> None:
    """Write report.html into a run or a study: results, plots, caveats, in one file."""
    from mdmt.report import write_report

    typer.echo(write_report(folder))
