"""``mdmt site``: what a hospital's engineer does with a kit."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mdmt.cli.audit import audit

if TYPE_CHECKING:
    from client.deployment.check import Check

__all__ = ["site"]

site = typer.Typer(name="site", no_args_is_help=True, help="A site of a real federation.")
site.command()(audit)
Kit = Annotated[Path, typer.Argument(help="The site's folder.")]


@site.command()
def check(kit: Kit = Path()) -> None:
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
    _report_failures(done)


@site.command()
def start(kit: Kit = Path()) -> None:
    """Connect this site to its federation and answer the server until interrupted.

    Exits with 2 if something on this machine would fail every round.
    """
    from client.deployment.check import check_site
    from mdmt.cli.console import log_to_stderr
    from mdmt.config import load_site
    from mdmt.deployment.kits import open_site_kit
    from mdmt.deployment.processes import until_stopped

    os.umask(0o077)  # nobody else may read its log, heads and cache
    opened = open_site_kit(kit)
    _report_failures(check_site(opened, starting=True))
    log_to_stderr()
    from client.deployment.launcher import serve_site

    with until_stopped():
        serve_site(opened, load_site(opened.site_file))


def _report_failures(checks: Iterable[Check]) -> None:
    """Write a line for every check that failed, and end the command if there is one."""
    failed = [item for item in checks if item.outcome == "fail"]
    for item in failed:
        typer.echo(f"error: {item.name}: {item.found}; {item.remedy}", err=True)
    if failed:
        raise typer.Exit(2)
