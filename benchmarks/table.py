"""The one table, and the same as JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.table import Table

from benchmarks.summary import Row
from mdmt.cli.console import new_table
from mdmt.files import write_json

__all__ = ["as_table", "save"]

_FORMAT = 1
_MET = {True: "met", False: "not met", None: ""}
_UNITS = {"x": "", "s": " s", "%": " %", "ms": " ms", "MB": " MB"}


def as_table(rows: Sequence[Row], title: str) -> Table:
    """Lay rows out for the terminal."""
    table = new_table(title, "what", ">median [min, max]", ">target", "", "runs", "behind it")
    for row in rows:
        table.add_row(
            row.what,
            _value(row),
            _target(row),
            _MET[row.met],
            str(row.value.runs) if row.value else "",
            row.note,
        )
    return table


def save(file: Path, rows: Sequence[Row], facts: Mapping[str, Any]) -> None:
    """Write rows and machine facts to `file`, atomically."""
    listed = [asdict(row) | {"met": row.met} for row in rows]
    write_json(file, {"format": _FORMAT, **facts, "rows": listed})


def _value(row: Row) -> str:
    if row.value is None:
        return "-"
    value, low, high = (_number(x) for x in (row.value.value, row.value.low, row.value.high))
    return f"{value}{_UNITS[row.unit]} [{low}, {high}]"


def _target(row: Row) -> str:
    if row.target is None:
        return ""
    return f"{'>=' if row.larger_is_better else '<='} {row.target:g}{_UNITS[row.unit]}"


def _number(value: float) -> str:
    """Three digits behind the point where they say something."""
    return (
        f"{value:.3f}"
        if abs(value) < 10
        else f"{value:.1f}"
        if abs(value) < 100
        else f"{value:.0f}"
    )
