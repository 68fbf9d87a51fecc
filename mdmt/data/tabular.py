"""Read CSV and XLSX files as rows of text."""

from __future__ import annotations

import difflib
import unicodedata
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from mdmt.data.csv_text import csv_records
from mdmt.data.records import Record
from mdmt.data.spreadsheet import xlsx_records
from mdmt.errors import DataError
from mdmt.nearest import nearest

_ZIP, _OLE = b"PK\x03\x04", b"\xd0\xcf\x11\xe0"
"""First bytes of an XLSX file, and of an Excel file before 2007."""


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
    """Read a CSV file (comma, semicolon, tab or bar) or the first sheet of an XLSX file.

    The content decides the format, not the name. Blank rows are dropped. Spaces around a cell and
    invisible characters in it are removed.

    Raises
    ------
    DataError
        The file is not a readable table, or two columns have the same name.
    """
    lines = [
        record._replace(cells=[_visible(cell) for cell in record.cells])
        for record in _records(path)
    ]
    lines = [record for record in lines if any(record.cells)]
    if not lines:
        raise DataError(f"{path}: the table is empty")
    columns = tuple(lines[0].cells)
    duplicates = sorted({name for name in columns if name and columns.count(name) > 1})
    if duplicates:
        raise DataError(f"{path}: two columns are called {', '.join(duplicates)}; rename one")
    rows, issues = [], []
    for record in lines[1:]:
        where, cells, error = f"{path.name}:{record.number}", record.cells, record.error
        if len(cells) != len(columns):
            error = (
                f"the row has {len(cells)} cells, the header has {len(columns)}; is a delimiter"
                " missing or extra?"
            )
        if record.warning:
            issues.append(Issue("warning", where, record.warning))
        if error:
            issues.append(Issue("error", where, error))
        else:
            rows.append(Row(where, dict(zip(columns, cells, strict=True))))
    return TabularFile(path, columns, tuple(rows), tuple(issues))


def _records(path: Path) -> list[Record]:
    try:
        with path.open("rb") as file:
            head = file.read(8)
        if head.startswith(_OLE):
            raise DataError(f"{path}: an old Excel file (.xls); save it as XLSX or CSV")
        if path.suffix.lower() in {".xlsx", ".xlsm"} and not head.startswith(_ZIP):
            raise DataError(f"{path}: not a valid XLSX file; save it again as XLSX or CSV")
        return list(xlsx_records(path) if head.startswith(_ZIP) else csv_records(path))
    except DataError:
        raise
    except FileNotFoundError as error:
        if not path.parent.is_dir():
            raise DataError(f"{path.parent}: no such folder, for the table {path.name}") from error
        hint = nearest(path.name, (other.name for other in path.parent.iterdir()))
        raise DataError(f"{path}: no such file{hint}") from error
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not UTF-8 text; save the table as CSV UTF-8") from error
    except Exception as error:  # openpyxl raises errors of any class for a damaged file
        kind = "XLSX" if path.suffix.lower() == ".xlsx" else "CSV"
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise DataError(f"{path}: not a valid {kind} file: {reason}; save it again") from error


def _visible(cell: str) -> str:
    """Remove what a reader of the table cannot see: format characters, and spaces at the ends."""
    if cell.isascii():
        return cell.strip()
    shown = (" " if c == "\xa0" else c for c in cell if unicodedata.category(c) != "Cf")
    return "".join(shown).strip()


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
