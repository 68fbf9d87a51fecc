"""Reading and writing the CSV tables of a study; an error names the file."""

import csv
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from mdmt.errors import BadInput
from mdmt.files import atomic_path
from mdmt.tasks import Task


def read_rows(file: Path, columns: Sequence[str]) -> Iterator[dict[str, str]]:
    """Yield the rows of a CSV file, or nothing if it does not exist. Equal texts share memory.

    Raises
    ------
    BadInput
        A column is missing, or a row has too few or too many cells.
    """
    if not file.exists():
        return
    with file.open(newline="", encoding="utf-8") as stream:
        reader = csv.DictReader(stream)
        missing = [name for name in columns if name not in (reader.fieldnames or ())]
        if missing:
            raise BadInput(f"{file}: no column {missing[0]}; expected {', '.join(columns)}")
        for row in reader:
            if None in row.values() or None in row:
                raise BadInput(f"{file}: line {reader.line_num} is not complete")
            yield {name: sys.intern(row[name]) for name in columns}


def to_number(file: Path | str, text: str) -> float | None:
    """Convert a cell to a number; an empty cell is None.

    Raises
    ------
    BadInput
        It is not a number.
    """
    try:
        return float(text) if text else None
    except ValueError as error:
        raise BadInput(f"{file}: {text} is not a number") from error


def known_task(file: Path, task: str, spaces: Mapping[str, Task]) -> None:
    """Refuse a task that the study does not have."""
    if task not in spaces:
        raise BadInput(f"{file}: the task {task} is none of study.yaml's {', '.join(spaces)}")


def write_rows(file: Path, columns: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> None:
    """Write a CSV file atomically, making its folder if necessary."""
    with (
        atomic_path(file) as temporary,
        temporary.open("w", newline="", encoding="utf-8") as stream,
    ):
        table = csv.DictWriter(stream, columns, lineterminator="\n")
        table.writeheader()
        table.writerows(rows)
