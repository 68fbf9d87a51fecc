"""Read the first sheet of an XLSX file as records of text."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mdmt.data.records import Record


def xlsx_records(path: Path) -> Iterator[Record]:
    """Yield the rows of the first sheet, cut or filled to the width of the header.

    In an XLSX file a row ends at its last filled cell, and formatting can add empty columns.

    Raises
    ------
    Exception
        The file is damaged. openpyxl raises errors of any class.
    """
    rows = _rows(path, values=True)
    texts = [[_cell_text(value) for value in row] for row in rows]
    header = next(filter(any, texts), [])
    width = max((i + 1 for i, cell in enumerate(header) if cell), default=0)
    problems = _formulas_without_value(path, rows, header[:width])
    for number, cells in enumerate(texts, start=1):
        yield Record(number, (cells + [""] * width)[:width], problems.get(number))


def _rows(path: Path, *, values: bool) -> list[tuple[Any, ...]]:
    """Read all rows: the values that were calculated last, or the formulas."""
    import openpyxl

    # openpyxl does not close a file that it opened itself if an error occurs.
    with path.open("rb") as file:
        workbook = openpyxl.load_workbook(file, read_only=True, data_only=values)
        sheet = workbook.worksheets[0]
        sheet.reset_dimensions()  # some programs write a size that is too small
        return list(sheet.iter_rows(values_only=True))


def _formulas_without_value(
    path: Path, rows: list[tuple[Any, ...]], header: list[str]
) -> dict[int, str]:
    """Find cells whose formula was never calculated: row → problem."""
    if not any(None in row[: len(header)] for row in rows):
        return {}
    problems = {}
    for number, (row, formulas) in enumerate(
        zip(rows, _rows(path, values=False), strict=True), start=1
    ):
        for name, value, formula in zip(header, row, formulas, strict=False):
            if value is None and isinstance(formula, str) and formula.startswith("="):
                problems[number] = (
                    f"column {name}: the formula {formula[:40]} was never calculated; open the file"
                    " in a spreadsheet program and save it"
                )
    return problems


def _cell_text(value: object) -> str:
    """Return the text that a spreadsheet shows: 1.0 is ``1``."""
    if value is None:
        return ""
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value)
