"""``mdmt site check``: whether a site is ready to take part, and what to do if not."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from client.deployment.check import Check

__all__ = ["check", "report_failures"]


def check(
    kit: Annotated[Path, typer.Argument(help="The site's folder.")] = Path(),
) -> None:
    """Check the way to the server, the key, the clock, the machine and every image.

    Exits with 2 if something keeps the site from taking part.
    """
    from client.deployment.check import check_site
    from mdmt.cli.console import new_table, progress_console, result_console
    from mdmt.deployment.kits import open_site_kit

    os.umask(0o077)  # nobody else may read the cache that this fills
    opened = open_site_kit(kit)
    table = new_table(f"{opened.facts.name}: check", "check", "", "found", "remedy")
    done = []
    with progress_console().status("checking") as status:
        for item in check_site(opened, lambda done, n: status.update(f"image {done} of {n}")):
            table.add_row(item.name, item.outcome, item.found, item.remedy)
            done.append(item)
    result_console().print(table)
    report_failures(done)


def report_failures(checks: Iterable[Check]) -> None:
    """Write a line for every check that failed, and end the command if there is one."""
    failed = [item for item in checks if item.outcome == "fail"]
    for item in failed:
        typer.echo(f"error: {item.name}: {item.found}; {item.remedy}", err=True)
    if failed:
        raise typer.Exit(2)
