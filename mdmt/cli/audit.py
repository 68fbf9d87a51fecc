"""``mdmt site audit``: every message that left a site, and whether the log of them is intact."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from client.deployment.audit_entry import Entry

__all__ = ["audit"]

_SHOWN = 3
"""Values of a report that fit into the table."""


def audit(
    kit: Annotated[Path, typer.Argument(help="The site's folder.")] = Path(),
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the log: a JSON object per message.")
    ] = False,
) -> None:
    """Show every message that left this site.

    Exits with 1 if the log was changed. The table is short; --json names every array with its type,
    shape and bytes, and every value.
    """
    from client.deployment.audit import open_audit_log
    from mdmt.cli.console import new_table, result_console
    from mdmt.config import load_site
    from mdmt.deployment.kits import open_site_kit

    opened = open_site_kit(kit)
    log = open_audit_log(opened, load_site(opened.site_file))
    problems, entries = log.verify(), log.entries()
    verdict = "nothing has left this site yet"
    if entries:
        since = f"{len(entries)} messages since {entries[0].time}"
        verdict = f"intact: {since}, head {log.last_hash()}"
    lines = [f"error: {log.path}: {problem}" for problem in problems]
    for line in lines or [f"{log.path}: {verdict}"]:
        typer.echo(line, err=as_json)
    if as_json:
        for entry in entries:
            typer.echo(json.dumps(entry.model_dump(exclude_defaults=True)))
    elif entries:
        columns = ("time", ">round", "kind", ">arrays", ">bytes", "content")
        table = new_table("messages that left", *columns)
        for entry in entries:
            numbers = [entry.round, entry.kind, len(entry.arrays), entry.bytes]
            cells = ["-" if number is None else str(number) for number in numbers]
            table.add_row(entry.time, *cells, "; ".join(_content(entry)))
        result_console().print(table)
    if problems:
        raise typer.Exit(1)


def _content(entry: Entry) -> Iterator[str]:
    """Yield what a message says, in short."""
    if entry.error is not None:
        yield f"error: {entry.error}"
    values = [f"{name} {value:.4g}" for name, value in _values("", entry.report)]
    if values:
        more = len(values) - _SHOWN
        yield ", ".join(values[:_SHOWN]) + (f" and {more} more" if more > 0 else "")
    if entry.other:
        yield f"not by our client: {', '.join(entry.other)}"
    if entry.recovered is not None:
        yield entry.recovered


def _values(name: str, value: Any) -> Iterator[tuple[str, float]]:
    """Yield every number of a report with its key, except the round."""
    if isinstance(value, dict):
        for key, inner in value.items():
            if (name, key) != ("", "round"):
                yield from _values(f"{name} {key}".strip(), inner)
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield name, value
