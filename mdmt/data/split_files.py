"""Read the split files of the paper's authors: ``<fold>/{train,val,test}.txt``."""

from dataclasses import dataclass
from pathlib import Path

from mdmt.data.manifest import SPLITS, Split
from mdmt.data.tabular import Row
from mdmt.errors import DataError

_SUFFIXES = (".dcm", ".png", ".jpg", ".jpeg")


@dataclass(frozen=True)
class Assignment:
    """The split of one image, and its line in the split file."""

    split: Split
    row: Row
    """The columns are ``img label center`` or ``img label_dim scores center``."""


def image_id(name: str) -> str:
    """Return the name of an image in the split files: its file without folder and suffix.

    Examples
    --------
    >>> image_id("dicom_clean/5847644508433268177.dcm"), image_id("P_1_7")
    ('5847644508433268177', 'P_1_7')
    """
    path = Path(name)
    return path.stem if path.suffix.lower() in _SUFFIXES else path.name


def read_split_files(folder: Path) -> dict[str, Assignment]:
    """Read ``train.txt``, ``val.txt`` and ``test.txt``: a header, then a line per image.

    Parameters
    ----------
    folder : Path
        Folder of one fold.

    Returns
    -------
    dict of str to Assignment
        By `image_id`.

    Raises
    ------
    DataError
        A file is missing or not a split file, or an image is in two splits.
    """
    assignments: dict[str, Assignment] = {}
    for split in SPLITS:
        for row in _rows(folder / f"{split}.txt"):
            name = image_id(row.cells["img"])
            other = assignments.get(name)
            if other is not None:
                place = f"in {other.row.where} ({other.split})"
                raise DataError(f"{folder}: {row.where}: image {name} is already {place}")
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
    """Return all possible readings of a line.

    Either several blanks separate two cells, or one blank does. In the second case a cell can be
    empty: ``label_dim`` is empty in the published folders that leave one vendor out, as in
    ``<id>  [scores] VENDOR``. Only the last column, the centre, can contain blanks. If two readings
    are possible, the one with scores in brackets is right.
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
