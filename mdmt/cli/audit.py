"""``mdmt site audit``: what left a site."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mdmt.cli.console import new_table, show_results
from mdmt.errors import BadInput

if TYPE_CHECKING:
    from client.deployment.audit_entry import Entry

_SHOWN = 3
"""Values of a report that fit into the table."""
_DIGITS = 8
"""Digits of a recipe's hash in the table."""


def audit(
    kit: Annotated[Path, typer.Argument(help="The site's folder.")] = Path(),
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the log: a JSON object per message.")
    ] = False,
    expect: Annotated[
        list[str] | None,
        typer.Option(metavar="HASH", help="A head that was noted elsewhere; may be repeated."),
    ] = None,
) -> None:
    """Show every message that left this site, and what it was asked.

    The exit code is 1 if the log was changed, or lacks the line of an expected head. The table is a
    summary; --json gives the type, shape and bytes of every array, and every value.
    """
    from client.deployment.audit import open_audit_log
    from mdmt.config import load_site
    from mdmt.deployment.kits import open_site_kit

    expected = [_noted(head) for head in expect or ()]
    opened = open_site_kit(kit)
    log = open_audit_log(opened, load_site(opened.site_file))
    hashes = log.hashes()  # first: a message recorded meanwhile is one line more
    problems, entries = [str(problem) for problem in log.verify()], log.entries()
    problems += [f"no line has the hash {head}" for head in expected if head not in hashes]
    verdict = "nothing has left this site yet"
    if entries and hashes:
        since = f"{len(entries)} messages since {entries[0].time}"
        verdict = f"intact: {since}, head {hashes[-1]}"
    lines = [f"error: {log.path}: {problem}" for problem in problems]
    known = [head for head in expected if head in hashes]
    verdicts = [verdict, *(f"line {hashes.index(head) + 1} has the hash {head}" for head in known)]
    for line in lines or [f"{log.path}: {text}" for text in verdicts]:
        typer.echo(line, err=as_json)
    if as_json:
        for entry in entries:
            typer.echo(json.dumps(entry.model_dump(exclude_defaults=True)))
    elif entries:
        columns = ("time", ">round", "kind", "recipe", ">arrays", ">bytes", "content")
        table = new_table("messages that left", *columns)
        for entry in entries:
            recipe = entry.recipe and entry.recipe[:_DIGITS]
            facts = [entry.round, entry.kind, recipe, len(entry.arrays), entry.bytes]
            cells = ["-" if fact is None else str(fact) for fact in facts]
            table.add_row(entry.time, *cells, "; ".join(_content(entry)))
        show_results(table)
    if problems:
        raise typer.Exit(1)


def _noted(head: str) -> str:
    head = head.strip().lower()
    if not re.fullmatch(r"[0-9a-f]{64}", head):
        raise BadInput(f"--expect {head[:80]}: a head has 64 digits from 0 to 9 and a to f")
    return head


def _content(entry: Entry) -> Iterator[str]:
    """Yield a summary of a message."""
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
