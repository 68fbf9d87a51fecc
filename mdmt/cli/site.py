"""``mdmt site``: what a hospital's engineer does with a kit."""

from __future__ import annotations

import typer

from mdmt.cli.check import check

__all__ = ["site"]

site = typer.Typer(name="site", no_args_is_help=True, help="A site of a real federation.")
site.command()(check)
