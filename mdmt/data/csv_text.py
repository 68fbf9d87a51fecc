"""Read a CSV file as records of text."""

from __future__ import annotations

import codecs
import csv
import gzip
import io
from collections.abc import Iterator
from pathlib import Path

from mdmt.data.records import Record

_DELIMITERS = ",;\t|"
_GZIP = b"\x1f\x8b"


def csv_records(path: Path) -> Iterator[Record]:
    """Yield the records of a file: UTF-8, or UTF-16 with a byte order mark; may be gzipped.

    A first line ``sep=;`` names the delimiter. Otherwise it is the character that splits the header
    into the most columns.

    Raises
    ------
    ValueError
        A quote is not closed, or text follows a closing quote.
    """
    text = _text(path)
    first, _, rest = text.partition("\n")
    offset, named = 0, first.strip().strip('"')
    if named.lower().startswith("sep=") and len(named) == 5:
        text, offset, delimiter = rest, 1, named[4]
    else:
        delimiter = max(_DELIMITERS, key=lambda character: _width(text, character))
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    begin = 1 + offset  # a quoted cell can contain line breaks
    try:
        for cells in reader:
            yield Record(begin, cells, warning=_swallowed(cells, begin, delimiter))
            begin = reader.line_num + 1 + offset
    except csv.Error as error:
        end = reader.line_num + offset
        lines = f"line {end}" if end == begin else f"lines {begin} to {end}"
        raise ValueError(
            f"{lines}: a quotation mark is opened and not closed, or text follows the closing one"
            f" ({error})"
        ) from error


def _text(path: Path) -> str:
    data = path.read_bytes()
    if data.startswith(_GZIP):
        data = gzip.decompress(data)
    wide = data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    return data.decode("utf-16" if wide else "utf-8-sig")


def _width(text: str, delimiter: str) -> int:
    try:
        return len(next(csv.reader(io.StringIO(text), delimiter=delimiter), ()))
    except csv.Error:
        return 0


def _swallowed(cells: list[str], begin: int, delimiter: str) -> str | None:
    """Return a warning if a quoted cell contains lines that look like rows of this table."""
    for cell in cells:
        lines = cell.splitlines()[1:]
        if len(cells) > 1 and any(line.count(delimiter) >= len(cells) - 1 for line in lines):
            return (
                f"a quoted cell has {len(lines) + 1} lines, and a line in it looks like a row: is a"
                f" quotation mark missing after line {begin}?"
            )
    return None
