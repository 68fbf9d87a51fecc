"""CSV and XLSX files as rows of text, whatever wrote them."""

from __future__ import annotations

import csv
import difflib
import io
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from mdmt.errors import DataError

__all__ = ["Issue", "Row", "Severity", "TabularFile", "need_columns", "read_tabular_file"]

Severity = Literal["error", "warning"]


@dataclass(frozen=True)
class Issue:
    """Something in a dataset that its owner should know."""

    severity: Severity
    where: str
    """File, file:row or image."""
    message: str

    def __str__(self) -> str:
        return f"{self.where}: {self.message}"


@dataclass(frozen=True)
class Row:
    """One row of a table."""

    where: str
    """``labels.csv:17``, the line or row a text editor or spreadsheet shows."""
    cells: dict[str, str]
    """Stripped text by column."""


@dataclass(frozen=True)
class TabularFile:
    """A table as text."""

    path: Path
    columns: tuple[str, ...]
    rows: tuple[Row, ...]
    issues: tuple[Issue, ...]
    """Rows that do not have the header's width."""


def read_tabular_file(path: Path) -> TabularFile:
    """Read a CSV (UTF-8; comma, semicolon or tab) or the first tabular of an XLSX file.

    Numbers in XLSX cells read as a spreadsheet shows them: 1.0 is ``1``. Blank rows are left out.

    Raises
    ------
    DataError
        The file cannot be read as a table, or two columns have one name.
    """
    try:
        lines = _xlsx_lines(path) if path.suffix.lower() == ".xlsx" else _csv_lines(path)
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or error}") from error
    if not lines:
        raise DataError(f"{path}: the table is empty")
    columns = tuple(lines[0][1])
    doubled = sorted({name for name in columns if name and columns.count(name) > 1})
    if doubled:
        raise DataError(f"{path}: two columns are called {', '.join(doubled)}: rename one")
    rows, issues = [], []
    for number, cells in lines[1:]:
        where = f"{path.name}:{number}"
        if len(cells) != len(columns):
            message = f"{len(cells)} cells under a header of {len(columns)}"
            issues.append(Issue("error", where, f"{message}: is a delimiter missing or extra?"))
        else:
            rows.append(Row(where, dict(zip(columns, cells, strict=True))))
    return TabularFile(path, columns, tuple(rows), tuple(issues))


def need_columns(tabular: TabularFile, wanted: Mapping[str, str]) -> None:
    """Refuse a tabular file that lacks a column.

    Parameters
    ----------
    tabular : TabularFile
    wanted : mapping of str to str
        What each column is needed for.

    Raises
    ------
    DataError
        Names every column that is missing, and the closest there is.
    """
    missing = []
    for name, key in wanted.items():
        if name not in tabular.columns:
            close = difflib.get_close_matches(name, tabular.columns, n=1)
            hint = f", did you mean {close[0]}?" if close else ""
            missing.append(f"no column {name} (for {key}{hint})")
    if missing:
        present = ", ".join(column for column in tabular.columns if column)
        raise DataError(f"{tabular.path}: {'; '.join(missing)}; its columns are {present}")


def _csv_lines(path: Path) -> list[tuple[int, list[str]]]:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not UTF-8 text: save the table as CSV UTF-8") from error
    lines = []
    try:
        # The right delimiter is the one that cuts the header into the most columns.
        delimiter = max(
            ",;\t", key=lambda d: len(next(csv.reader(io.StringIO(text), delimiter=d), ()))
        )
        reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
        first_line = 1  # of a record: a quoted cell may hold line breaks
        for cells in reader:
            stripped = [cell.strip() for cell in cells]
            if any(stripped):
                lines.append((first_line, stripped))
            first_line = reader.line_num + 1
    except csv.Error as error:
        raise DataError(f"{path}: not a CSV table: {error}") from error
    return lines


def _xlsx_lines(path: Path) -> list[tuple[int, list[str]]]:
    import zipfile

    import openpyxl

    try:
        # With a file object, openpyxl does not keep the file open after an error.
        with path.open("rb") as file:
            workbook = openpyxl.load_workbook(file, read_only=True, data_only=True)
            values = list(workbook.worksheets[0].iter_rows(values_only=True))
    except (zipfile.BadZipFile, KeyError, ValueError, IndexError) as error:
        raise DataError(f"{path}: not an XLSX file: {error}") from error
    lines = [(n, [_cell_text(value) for value in row]) for n, row in enumerate(values, start=1)]
    lines = [(n, cells) for n, cells in lines if any(cells)]
    width = max(
        (i + 1 for _, cells in lines[:1] for i, cell in enumerate(cells) if cell), default=0
    )
    # Rows end at their last filled cell, and a formatted tabular has empty columns on its right.
    return [(n, cells[:width] + [""] * (width - len(cells))) for n, cells in lines]


def _cell_text(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value).strip()
