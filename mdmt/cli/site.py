"""``mdmt site``: the commands of an engineer in a hospital."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mdmt.cli.approve import approve
from mdmt.cli.audit import audit
from mdmt.cli.clean import clean
from mdmt.cli.console import log_to_stderr, new_table, progress_console, show_results

if TYPE_CHECKING:
    from client.deployment.check import Check

site = typer.Typer(name="site", no_args_is_help=True, help="A site of a deployed federation.")
Kit = Annotated[Path, typer.Argument(help="The site's folder.")]
site.command()(approve)
site.command()(audit)
site.command()(clean)


@site.command()
def join(kit: Kit = Path()) -> None:
    """Make this site's key, and the request with which the coordinator admits it.

    A second run changes nothing and prints the same.
    """
    from client.deployment.join import join_site
    from mdmt.deployment.kits import open_site_kit

    os.umask(0o077)
    opened = open_site_kit(kit)
    joining = join_site(opened)
    typer.echo(f"the key of {opened.facts.name}: {joining.fingerprint}")
    typer.echo(f"1. Send {joining.request} to the coordinator; it holds no secret.")
    typer.echo("2. When the coordinator calls, read the fingerprint above to them.")
    typer.echo(f"3. mdmt site check {kit} says when this site is admitted.")
    typer.echo(f"{opened.private_key} never leaves this machine, except in your backup.")


@site.command()
def check(kit: Kit = Path()) -> None:
    """Check the connection to the server, the key, the clock, the machine and every image.

    The exit code is 2 if the site cannot take part.
    """
    from client.deployment.check import check_site
    from mdmt.deployment.kits import open_site_kit

    os.umask(0o077)  # other users must not read the cache
    opened = open_site_kit(kit)
    table = new_table(f"{opened.facts.name}: check", "check", "", "found", "remedy")
    with progress_console().status("checking") as status:
        done = list(check_site(opened, lambda done, n: status.update(f"image {done} of {n}")))
    for item in done:
        table.add_row(item.name, item.outcome, item.found, item.remedy)
    show_results(table)
    _report_failures(done)


@site.command()
def start(kit: Kit = Path()) -> None:
    """Connect this site to its federation and answer the server until interrupted.

    The exit code is 2 if a problem on this machine would make every round fail.
    """
    from client.deployment.check import check_site
    from mdmt.config import load_site
    from mdmt.deployment.kits import open_site_kit
    from mdmt.deployment.processes import until_stopped

    os.umask(0o077)  # other users must not read its log, heads and cache
    opened = open_site_kit(kit)
    _report_failures(check_site(opened, starting=True))
    log_to_stderr()
    from client.deployment.launcher import serve_site

    with until_stopped():
        serve_site(opened, load_site(opened.site_file))


def _report_failures(checks: Iterable[Check]) -> None:
    """Write a line for every failed check. End the command if there is one."""
    failed = [item for item in checks if item.outcome == "fail"]
    for item in failed:
        typer.echo(f"error: {item.name}: {item.found}; {item.remedy}", err=True)
    if failed:
        raise typer.Exit(2)
