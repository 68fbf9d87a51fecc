"""Read CSV and XLSX files as rows of text."""

from __future__ import annotations

import csv
import difflib
import io
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from mdmt.errors import DataError


@dataclass(frozen=True)
class Issue:
    """A problem in a dataset that its owner should know."""

    severity: Literal["error", "warning"]
    where: str
    """File, file:row or image."""
    message: str

    def __str__(self) -> str:
        return f"{self.where}: {self.message}"


@dataclass(frozen=True)
class Row:
    """One row of a tabular file."""

    where: str
    """``labels.csv:17``: the line number in a text editor or the row number in a spreadsheet."""
    cells: dict[str, str]
    """Text by column, without spaces around it."""


@dataclass(frozen=True)
class TabularFile:
    """The content of a tabular file, as text."""

    path: Path
    columns: tuple[str, ...]
    rows: tuple[Row, ...]
    issues: tuple[Issue, ...]
    """Rows with more or fewer cells than the header."""

    def changed(self, rows: Iterable[Row], issues: Iterable[Issue], *added: str) -> TabularFile:
        """Return a copy with other rows and issues, and with the columns `added`."""
        columns = tuple(dict.fromkeys((*self.columns, *added)))
        return replace(self, columns=columns, rows=tuple(rows), issues=tuple(issues))


def read_tabular_file(path: Path) -> TabularFile:
    """Read a CSV file (UTF-8; comma, semicolon or tab) or the first sheet of an XLSX file.

    Numbers in XLSX cells become the text that a spreadsheet shows: 1.0 is ``1``. Blank rows are
    dropped.

    Raises
    ------
    DataError
        The file is not a readable table, or two columns have the same name.
    """
    kind = "XLSX" if path.suffix.lower() == ".xlsx" else "CSV"
    try:
        records = _xlsx_records(path) if kind == "XLSX" else _csv_records(path)
        lines = [(number, cells) for number, cells in records if any(cells)]
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not UTF-8 text; save the table as CSV UTF-8") from error
    except (csv.Error, zipfile.BadZipFile, KeyError, ValueError, IndexError) as error:
        raise DataError(f"{path}: not a valid {kind} file: {error}") from error
    if not lines:
        raise DataError(f"{path}: the table is empty")
    columns = tuple(lines[0][1])
    duplicates = sorted({name for name in columns if name and columns.count(name) > 1})
    if duplicates:
        raise DataError(f"{path}: two columns are called {', '.join(duplicates)}; rename one")
    rows, issues = [], []
    for number, cells in lines[1:]:
        where = f"{path.name}:{number}"
        if len(cells) != len(columns):
            message = f"the row has {len(cells)} cells, the header has {len(columns)}"
            issues.append(Issue("error", where, f"{message}; is a delimiter missing or extra?"))
        else:
            rows.append(Row(where, dict(zip(columns, cells, strict=True))))
    return TabularFile(path, columns, tuple(rows), tuple(issues))


def need_columns(tabular: TabularFile, wanted: Mapping[str, str]) -> None:
    """Check that a tabular file has all columns.

    Parameters
    ----------
    tabular : TabularFile
    wanted : mapping of str to str
        The configuration key that needs the column, by column.

    Raises
    ------
    DataError
        Columns are missing. The message names each one and the most similar existing column.
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


def _csv_records(path: Path) -> Iterator[tuple[int, list[str]]]:
    """Yield the first line number and the cells of each record."""
    text = path.read_text(encoding="utf-8-sig")
    # The delimiter is the character that splits the header into the most columns.
    delimiter = max(",;\t", key=lambda d: len(next(csv.reader(io.StringIO(text), delimiter=d), ())))
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
    first_line = 1  # a quoted cell can contain line breaks
    for cells in reader:
        yield first_line, [cell.strip() for cell in cells]
        first_line = reader.line_num + 1


def _xlsx_records(path: Path) -> Iterator[tuple[int, list[str]]]:
    """Yield the number and the cells of each row, cut or filled to the width of the header.

    In an XLSX file a row ends at its last filled cell, and formatting can add empty columns.
    """
    import openpyxl

    # openpyxl does not close a file that it opened itself if an error occurs.
    with path.open("rb") as file:
        workbook = openpyxl.load_workbook(file, read_only=True, data_only=True)
        values = list(workbook.worksheets[0].iter_rows(values_only=True))
    rows = [[_cell_text(value) for value in row] for row in values]
    header = next(filter(any, rows), [])
    width = max((i + 1 for i, cell in enumerate(header) if cell), default=0)
    for number, cells in enumerate(rows, start=1):
        yield number, (cells + [""] * width)[:width]


def _cell_text(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value).strip()
