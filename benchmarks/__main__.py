"""``python -m benchmarks [NAME ...]``: measure, print one table, write JSON."""

from __future__ import annotations

import shutil
import signal
import tempfile
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from benchmarks.bench import Bench
from benchmarks.machine import machine_facts
from benchmarks.processes import ROOT
from benchmarks.rows import ROWS
from benchmarks.summary import Row
from benchmarks.table import as_table, save
from mdmt.cli.console import progress_console, show_results

_RESULTS = ROOT / "benchmarks" / "results"


def main(
    names: Annotated[
        list[str] | None, typer.Argument(help=f"What to measure; all of {', '.join(ROWS)}.")
    ] = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="Tiny settings, one run each: the figures mean nothing.")
    ] = False,
    repeats: Annotated[int, typer.Option(min=1, help="Runs of each thing.")] = 3,
    out: Annotated[
        Path | None, typer.Option(help="JSON file.  [default: benchmarks/results/DATE.json]")
    ] = None,
) -> None:
    """Compare MDMT with a bare PyTorch loop and a stock Flower app on the same work.

    Exits with 1 if something could not be measured; a target that is not met is a result.
    """
    if unknown := sorted(set(names or ()) - set(ROWS)):
        raise typer.BadParameter(f"{unknown[0]}: expected one of {', '.join(ROWS)}")
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # ends like a Ctrl-C
    console = progress_console()
    facts = machine_facts() | {"quick": quick, "repeats": repeats}
    file = out or _RESULTS / f"{datetime.now(UTC):%Y-%m-%d-%H%M%S}.json"
    # Below /tmp: paths of sockets are short.
    scratch = Path(tempfile.mkdtemp(prefix="bench-", dir="/tmp"))
    bench = Bench(scratch, repeats, quick, console.print)
    rows: list[Row] = []
    failed = False
    try:
        for name in names or ROWS:
            console.print(f"== {name}")
            try:
                rows += ROWS[name](bench)
            except Exception as error:  # what was measured before must not be lost with it
                failed = True
                rows.append(Row(name, None, note=f"failed: {type(error).__name__}: {error}"))
            if quick:  # nothing is met or missed by figures that mean nothing
                rows = [replace(row, target=None) for row in rows]
            save(file, rows, facts)
    except KeyboardInterrupt:
        failed = True
        console.print("stopped; what was measured before follows")
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    loads = ", ".join(map(str, facts["load_at_start"]))
    title = f"{facts['cpu']}, {facts['cores']} cores, load {loads}, {facts['commit'][:10]}"
    show_results(as_table(rows, title + (": QUICK, NOT A MEASUREMENT" if quick else "")))
    console.print(f"{file}")
    raise typer.Exit(1 if failed else 0)


if __name__ == "__main__":
    typer.run(main)
