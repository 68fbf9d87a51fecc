"""``mdmt site``: what a hospital's engineer does with a kit."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from mdmt.cli.audit import audit
from mdmt.cli.check import check

__all__ = ["site"]

site = typer.Typer(name="site", no_args_is_help=True, help="A site of a real federation.")
site.command()(check)
site.command()(audit)


@site.command()
def start(
    kit: Annotated[Path, typer.Argument(help="The site's folder.")] = Path(),
) -> None:
    """Connect this site to its federation and answer the server until interrupted.

    Exits with 2 if something on this machine would fail every round.
    """
    from client.deployment.check import check_site
    from mdmt.cli.check import report_failures
    from mdmt.cli.console import log_to_stderr
    from mdmt.config import load_site
    from mdmt.deployment.kits import open_site_kit
    from mdmt.deployment.processes import until_stopped

    os.umask(0o077)  # nobody else may read its log, heads and cache
    opened = open_site_kit(kit)
    report_failures(check_site(opened, starting=True))
    log_to_stderr()
    from client.deployment.launcher import serve_site

    with until_stopped():
        serve_site(opened, load_site(opened.site_file))
