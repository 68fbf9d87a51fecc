"""``mdmt site``: the commands of an engineer in a hospital."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mdmt.cli.approve import approve
from mdmt.cli.console import log_to_stderr, new_table, progress_console, show_results

if TYPE_CHECKING:
    from client.deployment.audit_entry import Entry
    from client.deployment.check import Check

site = typer.Typer(name="site", no_args_is_help=True, help="A site of a deployed federation.")
Kit = Annotated[Path, typer.Argument(help="The site's folder.")]
site.command()(approve)
_SHOWN = 3
"""Values of a report that fit into the table of the audit log."""


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


@site.command()
def audit(
    kit: Kit = Path(),
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the log: a JSON object per message.")
    ] = False,
) -> None:
    """Show every message that left this site.

    The exit code is 1 if the log was changed. The table is a summary; --json gives the type, shape
    and bytes of every array, and every value.
    """
    from client.deployment.audit import open_audit_log
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
        show_results(table)
    if problems:
        raise typer.Exit(1)


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
