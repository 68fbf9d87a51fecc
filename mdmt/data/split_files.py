"""The split files of the paper's authors: ``<fold>/{train,val,test}.txt``, a line per image."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from mdmt.data.manifest import SPLITS, Split
from mdmt.data.tabular import Row
from mdmt.errors import DataError

__all__ = ["Assignment", "image_id", "read_split_files"]

_SUFFIXES = (".dcm", ".png", ".jpg", ".jpeg")


@dataclass(frozen=True)
class Assignment:
    """What the split files say of one image."""

    split: Split
    row: Row
    """Its line; the columns are ``img label center`` or ``img label_dim scores center``."""


def image_id(name: str) -> str:
    """Name of an image file without its folder and suffix: what the split files call it.

    Examples
    --------
    >>> image_id("dicom_clean/5847644508433268177.dcm"), image_id("P_1_7")
    ('5847644508433268177', 'P_1_7')
    """
    path = Path(name)
    return path.stem if path.suffix.lower() in _SUFFIXES else path.name


def read_split_files(folder: Path) -> dict[str, Assignment]:
    """Read ``train.txt``, ``val.txt`` and ``test.txt``: columns divided by blanks, under a header.

    Parameters
    ----------
    folder : Path
        Of one fold.

    Returns
    -------
    dict of str to Assignment
        By `image_id`.

    Raises
    ------
    DataError
        A file is missing or is no split file, or an image is in two splits.
    """
    assignments: dict[str, Assignment] = {}
    for split in SPLITS:
        for row in _rows(folder / f"{split}.txt"):
            name = image_id(row.cells["img"])
            other = assignments.get(name)
            if other is not None:
                place = f"in {other.row.where} ({other.split})"
                raise DataError(f"{folder}: {row.where}: image {name} stands {place} already")
            assignments[name] = Assignment(split, row)
    return assignments


def _rows(path: Path) -> list[Row]:
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not UTF-8 text") from error
    columns = lines[0].split() if lines else []
    if "img" not in columns:
        raise DataError(f"{path}: not a split file: expected a header such as 'img label center'")
    rows = []
    for number, line in enumerate(lines[1:], start=2):
        if not line.strip():
            continue
        readings = _readings(line.rstrip(), columns)
        if len(readings) != 1:
            cells = len(line.split(maxsplit=len(columns) - 1))
            problem = "it can be read in two ways" if readings else f"{cells} cells"
            raise DataError(f"{path}:{number}: {problem} under a header of {len(columns)}")
        rows.append(Row(f"{path.name}:{number}", readings[0]))
    return rows


def _readings(line: str, columns: list[str]) -> list[dict[str, str]]:
    """Every way to read a line: cells stand between runs of blanks, or between single blanks.

    Between single blanks a cell can be empty, as ``label_dim`` is in the published folders that
    leave one vendor out: ``<id>  [scores] VENDOR``. Only the last column, the centre, may hold
    blanks itself. Scores in brackets tell which of two readings is right.
    """
    last = len(columns) - 1
    readings = [
        dict(zip(columns, cells, strict=True))
        for cells in (line.split(maxsplit=last), line.split(" ", maxsplit=last))
        if len(cells) == len(columns) and cells[0] and not cells[-1].startswith(" ")
    ]
    if len(readings) == 2 and readings[0] == readings[1]:
        return readings[:1]
    bracketed = [cells for cells in readings if cells.get("scores", "").startswith("[")]
    return bracketed if len(bracketed) == 1 else readings
