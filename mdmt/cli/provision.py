"""``mdmt provision``: a kit for the server and one for every site."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

__all__ = ["provision"]


def provision(
    federation: Annotated[
        str, typer.Argument(help="Federation YAML, or the name of one that ships.")
    ],
    server: Annotated[
        str, typer.Option(metavar="HOST:PORT", help="Where sites will reach the server.")
    ],
    out: Annotated[Path, typer.Option(help="Folder for the kits.")] = Path("kits"),
    site: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME", help="A site, once for each; those of the federation's file if none."
        ),
    ] = None,
    force: Annotated[
        bool,
        typer.Option("--force", help="Make all keys anew: kits handed out before become useless."),
    ] = False,
) -> None:
    """Write the keys, certificates and files that the server and each site need.

    Run again, it keeps every key and every site.yaml, adds what is missing, and renews the
    server's certificate.
    """
    from mdmt.cli.console import new_table, result_console
    from mdmt.config import find_config, load_federation
    from server.deployment.provision import provision as write_kits

    path = find_config(federation)
    done = write_kits(load_federation(path), path, server, out, site or (), force=force)
    table = new_table("kits", "", "key", "folder", "saved")
    for item in done:
        saved = ", ".join(file.name for file in item.saved)
        table.add_row(item.what, item.key, str(item.folder), saved)
    result_console().print(table)
    typer.echo(f"Keep {out / 'ca'} offline. Give each site its folder over a safe channel. Then:")
    typer.echo(f"  mdmt server start {out / 'server'}")
