"""Guess what the columns of a table mean, from their names and cells."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path

from mdmt.data.find_files import FileFinder
from mdmt.data.guess_labels import GuessedTask, Labels, judge_labels
from mdmt.data.table import MISSING
from mdmt.data.tabular import TabularFile
from mdmt.errors import DataError

_PATIENTS = ("patient", "patient_id", "patientid", "subject", "subject_id", "subjectid")
_IMAGES = ("image", "path", "file", "filename", "image_path", "img", "image_index", "image_id")
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
    *("frontal", "lateral", "ap", "pa", "scanner", "index", "doi"),
}
_LOOKED_AT = 20
"""Cells of a column that decide whether it names files."""


@dataclass(frozen=True)
class Named:
    """Columns that the user named."""

    image: str | None = None
    patient: str | None = None
    split: str | None = None
    labels: tuple[str, ...] = ()

    def without(self, columns: Set[str]) -> Named:
        """Return a copy without these columns, which another table has."""
        image, patient, split = (
            None if column in columns else column
            for column in (self.image, self.patient, self.split)
        )
        return Named(image, patient, split, tuple(c for c in self.labels if c not in columns))


@dataclass(frozen=True)
class Guess:
    """The columns of a table and what they probably mean.

    Attributes
    ----------
    table : Path
    image, patient, split, mask : str or None
        Names of columns.
    splits : dict of str to str
        ``train``, ``val`` or ``test`` by the table's name of the split.
    tasks : tuple of GuessedTask
    skipped : dict of str to str
        Why a column is not used.
    notes : tuple of str
        Facts that the user should know.
    """

    table: Path
    image: str
    patient: str | None
    split: str | None
    mask: str | None
    splits: dict[str, str]
    tasks: tuple[GuessedTask, ...]
    skipped: dict[str, str]
    notes: tuple[str, ...]


def guess_columns(tabular: TabularFile, named: Named = Named()) -> Guess:
    """Guess the columns of a table. What the user named is not guessed.

    Raises
    ------
    DataError
        A named column does not exist, no column names image files, or none could be a label.
    """
    _check_named(tabular, named)
    cells = {c: [row.cells[c] for row in tabular.rows] for c in filter(None, tabular.columns)}
    filled = {c: [v for v in texts if v.lower() not in MISSING] for c, texts in cells.items()}
    files = _file_columns(tabular.path.resolve().parent, filled)
    masks = [column for column in files if "mask" in _words(column)]
    image = named.image or _by_name([c for c in files if c not in masks], _IMAGES)
    if image is None:
        raise DataError(
            f"{tabular.path}: no column names image files that exist below"
            f" {tabular.path.resolve().parent}; move the table to the folder of the images, or name"
            " the column with --image"
        )
    patient = named.patient or _patient(list(filled))
    split = named.split or next((c for c, values in filled.items() if _is_split(values)), None)
    used = {image, patient, split, *files}
    tasks, skipped = _tasks({c: cells[c] for c in cells if c not in used}, named.labels)
    if not tasks:
        reasons = "; ".join(f"{column}: {why}" for column, why in skipped.items())
        raise DataError(f"{tabular.path}: no column could be a label ({reasons}); name it: --label")
    return Guess(
        table=tabular.path,
        image=image,
        patient=patient,
        split=split,
        mask=masks[0] if masks else None,
        splits=_split_names(filled[split]) if split else {},
        tasks=tuple(tasks),
        skipped=skipped,
        notes=tuple(_notes(tabular, patient)),
    )


def _check_named(tabular: TabularFile, named: Named) -> None:
    for column in filter(None, (named.image, named.patient, named.split, *named.labels)):
        if column not in tabular.columns:
            close = get_close_matches(column, tabular.columns, n=1)
            hint = f"; did you mean {close[0]}?" if close else ""
            known = ", ".join(filter(None, tabular.columns))
            raise DataError(f"{tabular.path}: no column {column}{hint}; its columns are {known}")


def _file_columns(folder: Path, filled: Mapping[str, Sequence[str]]) -> list[str]:
    """Return the columns of which most cells name files, each row another one.

    A column of ids counts only if no column names files with their suffix: 1 could be ``1.png``.
    """
    finder = FileFinder(folder)
    found = [
        column
        for column, values in filled.items()
        if len(set(values)) > len(values) / 2
        and sum(finder.find(value) is not None for value in values[:_LOOKED_AT])
        > len(values[:_LOOKED_AT]) / 2
    ]
    complete = [column for column in found if Path(filled[column][0]).suffix]
    return complete or found


def _by_name(columns: Sequence[str], names: Sequence[str]) -> str | None:
    """Return the column with a well-known name, else the first."""
    by_name = {re.sub(r"[ -]", "_", column.lower()): column for column in reversed(columns)}
    known = [by_name[name] for name in names if name in by_name]
    return next(iter([*known, *columns]), None)


def _patient(columns: Sequence[str]) -> str | None:
    """Find the column of patient ids. A well-known name comes before a similar one."""
    similar = [column for column in columns if _words(column) & {"patient", "subject"}]
    return _by_name(similar, _PATIENTS) if similar else None


def _is_split(values: Sequence[str]) -> bool:
    return bool(values) and {value.lower() for value in values} <= set(_SPLITS)


def _split_names(values: Iterable[str]) -> dict[str, str]:
    """Map each split name to its meaning. Without a test split, validation becomes the test."""
    names = {value: _SPLITS.get(value.lower(), "train") for value in sorted(set(values))}
    if "test" not in names.values():
        names = {name: "test" if split == "val" else split for name, split in names.items()}
    return names


def _tasks(
    cells: Mapping[str, Sequence[str]], wanted: Sequence[str]
) -> tuple[list[GuessedTask], dict[str, str]]:
    """Return the tasks, and why the other columns are not used."""
    judged: dict[str, Labels | None] = {}
    skipped: dict[str, str] = {}
    for column, texts in cells.items():
        verdict = judge_labels(texts)
        judged[column] = None
        if isinstance(verdict, str):
            skipped[column] = verdict
        elif not wanted and _words(column) & _OTHER_WORDS:
            skipped[column] = "its name describes the person, the place or the device"
        elif not wanted and verdict.continuous:
            skipped[column] = f"{verdict}; if it is a target: --label {column!r}"
        elif not wanted or column in wanted:
            judged[column] = verdict
        else:
            skipped[column] = "not named by --label"
    if refused := [column for column in wanted if judged.get(column) is None]:
        raise DataError(f"--label {refused[0]}: {skipped.get(refused[0], 'has another role')}")
    tasks = [_task(group, judged) for group in _groups(judged)]
    likely = [task for task in tasks if wanted or _looks_like_label(task)] or tasks[:1]
    for task in tasks:
        if task not in likely:
            skipped |= {c: f"could be a label: --label {c!r}" for c in task.columns}
    return likely, skipped


def _groups(judged: Mapping[str, Labels | None]) -> list[list[str]]:
    """Group columns into tasks: neighbours with a similar name or equal range, then all findings.

    A column without labels (None) ends a group.
    """
    groups: list[list[str]] = []
    before: tuple[str, Labels] | None = None  # first of the group that the next column may join
    for column, labels in judged.items():
        if labels is None or not labels.is_score:
            before = None
            groups += [[column]] if labels else []
        elif before and (_stem(column) == _stem(before[0]) or labels.range == before[1].range):
            groups[-1].append(column)
        else:
            groups.append([column])
            before = column, labels
    findings = [group for group in groups if all(_is_finding(judged[c]) for c in group)]
    joined = [column for group in findings for column in group]
    return [group for group in groups if group not in findings] + ([joined] if joined else [])


def _is_finding(labels: Labels | None) -> bool:
    return labels is not None and labels.kind == "multilabel" and not labels.parts


def _task(group: Sequence[str], judged: Mapping[str, Labels | None]) -> GuessedTask:
    members = [labels for column in group if (labels := judged[column])]
    first = next((labels for labels in members if labels.kind == "regression"), members[0])
    name = group[0]
    if len(group) > 1:
        name = "findings" if _is_finding(first) else _stem(group[0]) or "scores"
    return GuessedTask(
        name=task_name(name),
        columns=tuple(group),
        kind=first.kind,
        labels=first.parts or first.classes or tuple(group),
        range=(min(m.range[0] for m in members), max(m.range[1] for m in members)),
        values={text: meaning for m in members for text, meaning in m.values.items()},
        separator=first.separator,
    )


def _looks_like_label(task: GuessedTask) -> bool:
    return len(task.columns) > 2 or any(_words(column) & _LABEL_WORDS for column in task.columns)


def _notes(tabular: TabularFile, patient: str | None) -> Iterable[str]:
    yield from (str(issue) for issue in tabular.issues[:3])
    if more := tabular.issues[3:]:
        yield f"and {len(more)} more rows with a problem: mdmt validate lists them"
    blank = [row.where for row in tabular.rows if patient and not row.cells[patient]]
    if blank:
        yield f"{len(blank)} rows have no {patient}, the first is {blank[0]}: fill them in"


def _stem(column: str) -> str:
    """Remove the number or letter at the end of a name: zone_1 → zone."""
    return re.sub(r"[ _-]*(\d+|(?<![A-Za-z])[A-Za-z])$", "", column)


def _words(column: str) -> set[str]:
    spaced = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", " ", column)
    return {word for word in re.split(r"[^a-z0-9]+", spaced.lower()) if word}


def task_name(column: str) -> str:
    """Convert any text to a name of letters, digits, ``-`` and ``_``."""
    return re.sub(r"[^A-Za-z0-9_-]+", "-", column).strip("-_")[:64] or "task"
