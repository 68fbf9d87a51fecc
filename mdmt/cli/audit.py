"""``mdmt site audit``: every message that left a site, and whether the log of them is whole."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from rich.table import Table

    from client.deployment.audit import AuditLog, Problem
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

    Exits with 1 when the log is not what was written. The table is short; --json names every array
    with its type, shape and bytes, and every value.
    """
    from client.deployment.audit import open_audit_log
    from mdmt.cli.console import result_console
    from mdmt.config import load_site
    from mdmt.deployment.kits import open_site_kit

    opened = open_site_kit(kit)
    log = open_audit_log(opened, load_site(opened.site_file))
    problems, entries = log.verify(), log.entries()
    for line in _verdict(log, problems, entries):
        typer.echo(line, err=as_json)
    if as_json:
        for entry in entries:
            typer.echo(json.dumps(entry.model_dump(exclude_defaults=True)))
    elif entries:
        result_console().print(_table(entries))
    if problems:
        raise typer.Exit(1)


def _verdict(log: AuditLog, problems: list[Problem], entries: list[Entry]) -> Iterator[str]:
    """Say whether the log is whole, or what is wrong with it."""
    for problem in problems:
        yield f"error: {log.path}: {problem}"
    if not problems and entries:
        yield (
            f"{log.path}: intact: {len(entries)} messages since {entries[0].time},"
            f" head {log.last_hash()}"
        )
    elif not problems:
        yield f"{log.path}: nothing has left this site yet"


def _table(entries: list[Entry]) -> Table:
    from mdmt.cli.console import new_table

    table = new_table(
        "messages that left", "time", ">round", "kind", ">arrays", ">bytes", "what it says"
    )
    for entry in entries:
        table.add_row(
            entry.time,
            "-" if entry.round is None else str(entry.round),
            entry.kind,
            str(len(entry.arrays)),
            str(entry.bytes),
            "; ".join(_says(entry)),
        )
    return table


def _says(entry: Entry) -> Iterator[str]:
    """Yield the content of a message, short."""
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
    """Yield every number of a report, but for its round, with where it stands."""
    if isinstance(value, dict):
        for key, inner in value.items():
            if (name, key) != ("", "round"):
                yield from _values(f"{name} {key}".strip(), inner)
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield name, value
