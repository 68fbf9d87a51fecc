"""``mdmt init``: first configuration files from a table of labels.

The names and cells of the table's columns tell what they probably mean.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mdmt.errors import BadInput, DataError
from mdmt.files import render, write_text

if TYPE_CHECKING:
    from mdmt.data.tabular import TabularFile

IMAGE_SUFFIXES = {".png", ".jpg", ".jpeg", ".tif", ".tiff", ".dcm", ".dicom"}
MOST_CLASSES = 10
HIGHEST_SCORE = 10

_NUMBER = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?")
_MISSING = {"", "na", "nan"}
_PATIENTS = ("patient", "patient_id", "patientid", "subject", "subject_id", "subjectid")
_SPLITS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "dev"), "val"),
    **dict.fromkeys(("test", "testing"), "test"),
}
_LABEL_WORDS = {
    *("label", "labels", "class", "target", "outcome", "prognosis", "diagnosis", "severity"),
    *("grade", "stage", "finding", "findings", "score", "death", "disease"),
}
_OTHER_WORDS = {  # of columns that describe the person, the place or the device
    *("id", "uid", "path", "file", "filename", "name", "sha", "sha256", "md5", "hash", "url"),
    *("date", "time", "day", "days", "age", "sex", "gender", "view", "position", "projection"),
    *("width", "height", "rows", "columns", "mode", "bits", "modality", "manufacturer", "device"),
    *("site", "hospital", "center", "centre", "location", "country", "source", "fold", "basis"),
    *("licence", "license", "split", "mask", "patient", "subject", "study", "series", "comment"),
    "doi",
}


@dataclass(frozen=True)
class GuessedTask:
    """A task and the columns of its labels.

    Attributes
    ----------
    name : str
        Letters, digits, ``-`` and ``_``.
    columns : tuple of str
    kind : {"classification", "regression", "multilabel"}
    classes : tuple of str
        Classes of a classification, sorted.
    range : tuple of int
        Lowest and highest value of a regression in the table.
    """

    name: str
    columns: tuple[str, ...]
    kind: str
    classes: tuple[str, ...] = ()
    range: tuple[int, int] = (0, 0)


@dataclass(frozen=True)
class Guess:
    """The columns of a table and what they probably mean.

    Attributes
    ----------
    root : Path
        Folder that the image paths are relative to.
    image, patient, split, mask : str or None
        Names of columns.
    splits : dict of str to str
        ``train``, ``val`` or ``test`` by the table's name of the split.
    tasks : tuple of GuessedTask
    others : tuple of GuessedTask
        Other columns that could be labels.
    """

    root: Path
    image: str
    patient: str | None
    split: str | None
    mask: str | None
    splits: dict[str, str]
    tasks: tuple[GuessedTask, ...]
    others: tuple[GuessedTask, ...]


def init(
    table: Annotated[Path, typer.Option(help="CSV or XLSX with one row per image.")],
    out: Annotated[Path, typer.Option(help="Folder for the two files.")] = Path(),
) -> None:
    """Write a first site.yaml and federation.yaml from the columns of a table of labels."""
    from mdmt.data.tabular import read_tabular_file

    files = [out / "site.yaml", out / "federation.yaml"]
    if old := [file for file in files if file.exists()]:
        raise BadInput(f"{old[0]}: exists already; choose another --out")
    guess = guess_columns(read_tabular_file(table))
    name = _task_name(table.resolve().parent.name)
    dataset = _dataset(guess, table.resolve(), out.resolve())
    for file in files:
        facts: dict[str, Any] = {"file": file, "name": name, "dataset": dataset, "guess": guess}
        write_text(file, render("mdmt.cli", f"{file.name}.j2", **facts))
    typer.echo(render("mdmt.cli", "summary.txt.j2", guess=guess, files=files), nl=False)


def _dataset(guess: Guess, table: Path, out: Path) -> dict[str, Any]:
    """Return the section `dataset`. A path below `out` is relative to it."""
    root = guess.root.relative_to(out) if guess.root.is_relative_to(out) else guess.root
    below = table.parent == guess.root
    keys: dict[str, Any] = {"kind": "table", "root": str(root)}
    keys["table"] = table.name if below else str(Path("..") / table.name)
    keys |= {"image": guess.image, "patient": guess.patient, "split": guess.split}
    keys["splits"] = guess.splits if any(k != v for k, v in guess.splits.items()) else None
    keys["mask"] = guess.mask
    return {key: value for key, value in keys.items() if value is not None}


def guess_columns(tabular: TabularFile) -> Guess:
    """Guess the columns of a table.

    Raises
    ------
    DataError
        No column names image files, or none could be a label.
    """
    filled: dict[str, list[str]] = {}
    for column in filter(None, tabular.columns):
        cells = [row.cells[column] for row in tabular.rows]
        if values := [cell for cell in cells if cell.lower() not in _MISSING]:
            filled[column] = values
    root, files = _file_columns(tabular.path.resolve().parent, filled)
    masks = [column for column in files if "mask" in _words(column)]
    images = [column for column in files if column not in masks]
    if not images:
        raise DataError(
            f"{tabular.path}: no column names image files that exist; paths must be relative to"
            " the folder of the table or to a folder beside it"
        )
    splits = [c for c, values in filled.items() if {v.lower() for v in values} <= set(_SPLITS)]
    split = splits[0] if splits else None
    complete = [column for column, values in filled.items() if len(values) == len(tabular.rows)]
    tasks = list(_tasks({c: v for c, v in filled.items() if c not in {*files, split}}))
    if not tasks:
        raise DataError(
            f"{tabular.path}: no column could be a label: a label column has 2 to {MOST_CLASSES}"
            f" different texts, or whole numbers up to {HIGHEST_SCORE}"
        )
    likely = [task for task in tasks if _looks_like_label(task)] or tasks[:1]
    return Guess(
        root=root,
        image=images[0],
        patient=_patient(complete),
        split=split,
        mask=masks[0] if masks else None,
        splits=_split_names(filled[split]) if split else {},
        tasks=tuple(likely),
        others=tuple(task for task in tasks if task not in likely),
    )


def _file_columns(folder: Path, filled: dict[str, list[str]]) -> tuple[Path, list[str]]:
    """Find the folder in which most columns name files. Return it and these columns."""
    best: tuple[Path, list[str]] = folder, []
    for root in (folder, *sorted(path for path in folder.iterdir() if path.is_dir())):
        columns = [
            column
            for column, values in filled.items()
            if sum((root / value).is_file() for value in values[:20]) > len(values[:20]) / 2
        ]
        if len(columns) > len(best[1]):
            best = root, columns
    return best


def _patient(complete: Sequence[str]) -> str | None:
    """Find the column of patient ids. A well-known name comes before a similar one."""
    by_name = {column.lower().replace(" ", "_"): column for column in reversed(complete)}
    exact = [by_name[name] for name in _PATIENTS if name in by_name]
    similar = [column for column in complete if _words(column) & {"patient", "subject"}]
    return next(iter(exact + similar), None)


def _split_names(values: Iterable[str]) -> dict[str, str]:
    """Map each split name to its meaning. Without a test split, validation becomes the test."""
    names = {value: _SPLITS[value.lower()] for value in sorted(set(values))}
    if "test" not in names.values():
        names = {name: "test" if split == "val" else split for name, split in names.items()}
    return names


def _tasks(filled: dict[str, list[str]]) -> Iterable[GuessedTask]:
    """Yield possible tasks in the table's order, then one task of all findings (0 or 1)."""
    findings: list[str] = []
    scores = {column: _small_numbers(values) for column, values in filled.items()}
    for group in _groups(scores):
        ranges = [range_ for column in group if (range_ := scores[column])]
        values = set(filled[group[0]])
        if ranges:
            low, high = min(low for low, _ in ranges), max(high for _, high in ranges)
            if high == 1:
                findings += group
                continue
            name = group[0] if len(group) == 1 else _stem(group[0]) or "scores"
            yield GuessedTask(_task_name(name), tuple(group), "regression", range=(low, high))
        elif 2 <= len(values) <= MOST_CLASSES and not all(map(_NUMBER.fullmatch, values)):
            classes = tuple(sorted(values))
            yield GuessedTask(_task_name(group[0]), tuple(group), "classification", classes)
    if findings:
        name = findings[0] if len(findings) == 1 else "findings"
        yield GuessedTask(_task_name(name), tuple(findings), "multilabel")


def _groups(ranges: dict[str, tuple[int, int] | None]) -> list[list[str]]:
    """Return possible label columns. Neighbours with a similar name or equal range form a group."""
    groups: list[list[str]] = []
    first = None  # column of the group that the next column may join
    for column, range_ in ranges.items():
        if _words(column) & _OTHER_WORDS:
            first = None
        elif first and range_ and (_stem(column) == _stem(first) or range_ == ranges[first]):
            groups[-1].append(column)
        else:
            groups.append([column])
            first = column if range_ else None
    return groups


def _small_numbers(values: Iterable[str]) -> tuple[int, int] | None:
    """Return the lowest (0 or 1) and highest score, or None if the values are no scores."""
    if not all(re.fullmatch(r"\d+(\.0)?", value) for value in values):
        return None
    found = {int(float(value)) for value in values}
    if len(found) < 2 or max(found) > HIGHEST_SCORE:
        return None
    return min(*found, 1), max(found)


def _looks_like_label(task: GuessedTask) -> bool:
    return len(task.columns) > 2 or any(_words(column) & _LABEL_WORDS for column in task.columns)


def _stem(column: str) -> str:
    """Remove the number or letter at the end of a name: zone_1 → zone."""
    return re.sub(r"[ _-]*(\d+|(?<![A-Za-z])[A-Za-z])$", "", column)


def _words(column: str) -> set[str]:
    spaced = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", " ", column)
    return {word for word in re.split(r"[^a-z0-9]+", spaced.lower()) if word}


def _task_name(column: str) -> str:
    """Convert any text to a name of letters, digits, ``-`` and ``_``."""
    return re.sub(r"[^A-Za-z0-9_-]+", "-", column).strip("-_")[:64] or "task"
