"""``mdmt site clean``: delete what a site does not need any more."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mdmt.cli.console import new_table, show_results


def clean(
    kit: Annotated[Path, typer.Argument(help="The site's folder.")] = Path(),
    yes: Annotated[bool, typer.Option("--yes", help="Delete without a question.")] = False,
) -> None:
    """Delete caches that no approved recipe needs, memory of earlier runs and stored replies.

    The newest run of each federation, the audit log, the recipes and what was spent stay. The site
    must not be running. The exit code is 1 after a no.
    """
    from client.deployment.cleaning import delete, leftovers
    from mdmt.config import load_site
    from mdmt.deployment.kits import open_site_kit
    from mdmt.deployment.processes import only_one

    site = load_site(open_site_kit(kit).site_file)
    with only_one(site.state_root / "site.lock", f"the site {site.name}"):
        found = leftovers(site)
        if not found:
            typer.echo("nothing to delete")
            return
        table = new_table(f"{site.name}: what can be deleted", "", ">MB", "")
        for item in found:
            table.add_row(item.what, f"{item.bytes / 1e6:.1f}", str(item.path))
        show_results(table)
        total = f"{sum(item.bytes for item in found) / 1e6:.1f} MB"
        if not (yes or typer.confirm(f"Delete {total}?")):
            typer.echo("nothing was deleted")
            raise typer.Exit(1)
        delete(found)
    typer.echo(f"{total} deleted")
