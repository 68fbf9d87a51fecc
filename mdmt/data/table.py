"""The reader of label tables: one row per image, with the site's own column names."""

import difflib
import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import numpy as np

from mdmt.config.datasets import Table
from mdmt.config.site import SiteConfig, SiteTask
from mdmt.data.find_files import FileFinder
from mdmt.data.manifest import CENTRE, SPLITS, Division, Manifest
from mdmt.data.splits import carve_validation, split_patients
from mdmt.data.stratified import stratify
from mdmt.data.table_checks import (
    NO_PATIENTS,
    Sample,
    account,
    patients_in_two_splits,
    repeated_images,
    similar_patients,
)
from mdmt.data.tabular import Issue, Row, TabularFile, need_columns, read_tabular_file
from mdmt.errors import DataError

MISSING = {
    *("", "na", "nan", "n/a", "n.a.", "#n/a", "null", "none", "missing", "unknown", "unk"),
    *("-", "--", "?", "."),
}
"""Texts of a missing label, in lower case, unless the task has such a label."""
_DECIMAL_COMMA = re.compile(r"[-+]?\d+,\d+")
_FLOAT_ID = re.compile(r"\d+\.0+")
"""A number that a program has converted to a float: 123.0 is the id 123."""


def read_table(site: SiteConfig, seed: int) -> tuple[Manifest, list[Issue]]:
    """Read the table of `site.dataset`. An unusable row gives an issue and is dropped.

    Rows that do not match `where`, and rows without a label of the site's tasks, are dropped.
    The task's `values` translate a label cell first. Blank and `MISSING` are missing labels.
    The splits come from the split column. If it has no validation split, a part of the training
    patients becomes the validation split. Without a split column all three are drawn. Drawn splits
    are stratified, or follow the hash of the patient id; see `Division`.

    Parameters
    ----------
    site : SiteConfig
        Its `dataset` is a `Table`.
    seed : int
        Seed of the federation. It decides the drawn splits.

    Returns
    -------
    Manifest
        The usable rows, in the table's order.
    list of Issue
        The issues of the other rows.

    Raises
    ------
    DataError
        The table cannot be read, or columns are missing.
    """
    dataset = site.dataset
    assert isinstance(dataset, Table)
    return read_rows(read_tabular_file(dataset.root / dataset.table), site, dataset, seed)


def read_rows(
    tabular: TabularFile, site: SiteConfig, dataset: Table, seed: int
) -> tuple[Manifest, list[Issue]]:
    """Convert the rows of a tabular file to a manifest.

    Readers of other layouts convert them to a tabular file first. `site.dataset` is not used.

    Parameters
    ----------
    tabular : TabularFile
    site : SiteConfig
        Its name and tasks are used.
    dataset : Table
        The meaning of the columns.
    seed : int

    Returns
    -------
    Manifest
    list of Issue
        Issues of the tabular file and of its rows.

    Raises
    ------
    DataError
        Columns are missing.
    """
    columns = {task: label_columns(task, entry) for task, entry in site.tasks.items()}
    _need_columns(tabular, dataset, columns)
    reader = _RowReader(dataset, site.tasks, columns, list(tabular.issues))
    wanted = [row for row in tabular.rows if _is_wanted(row, dataset)]
    samples = [sample for row in wanted if (sample := reader.read(row))]
    issues = [*reader.issues, *repeated_images(samples)]
    if dataset.split_column is not None:
        issues += patients_in_two_splits(samples)
    if not samples and not any(issue.severity == "error" for issue in issues):
        counts = f"{len(tabular.rows)} rows, {len(wanted)} of them match dataset.where"
        message = f"no row is left: {counts}, none is usable{_cells(tabular, dataset)}"
        issues.append(Issue("error", str(tabular.path), message))
    issues += similar_patients(samples)
    if dataset.patient is None and samples:
        issues.append(Issue("warning", str(tabular.path), NO_PATIENTS))
    manifest = replace(
        _manifest(samples, site.tasks),
        account=account(tabular, len(wanted), reader.unlabelled, len(samples)),
    )
    return _divided(manifest, site, dataset, seed), issues


def label_columns(task: str, entry: SiteTask) -> tuple[str, ...]:
    """Return the table column of each target column of a task.

    These are `entry.columns` if given. Otherwise they are the names of the labels (``A`` … ``F``),
    or the name of the task if one column contains the whole label. With `separator` they are the
    same column for every output.

    Raises
    ------
    DataError
        The number of `entry.columns` is wrong for the task.
    """
    own = tuple(column or task for column in entry.space.columns)
    columns = entry.columns or own
    if entry.separator is not None and len(columns) == 1:
        return columns * len(own)
    if len(columns) != len(own):
        needed = f"{len(own)} are needed, for {', '.join(own)}"
        raise DataError(f"tasks.{task}.columns: {len(columns)} columns are given, but {needed}")
    return columns


def _need_columns(tabular: TabularFile, dataset: Table, labels: dict[str, tuple[str, ...]]) -> None:
    keys = {key: getattr(dataset, key) for key in ("image", "patient", "mask", "centre")}
    keys["split"] = dataset.split_column
    if dataset.split_column is None and dataset.split in tabular.columns:
        raise DataError(
            f"{tabular.path}: has a column {dataset.split}, but dataset.split: {dataset.split}"
            " means the hash of the patient id: rename the column, or omit dataset.split"
        )
    wanted = {column: f"dataset.{key}" for key, column in keys.items() if column is not None}
    wanted |= dict.fromkeys(dataset.where, "dataset.where")
    wanted |= dict.fromkeys(dataset.metadata, "dataset.metadata")
    wanted |= {name: f"tasks.{task}" for task, names in labels.items() for name in names}
    need_columns(tabular, wanted)


def _cells(tabular: TabularFile, dataset: Table) -> str:
    """List the cells of the columns of `dataset.where`."""
    found = {c: sorted({row.cells[c] for row in tabular.rows}) for c in dataset.where}
    texts = (f"; {c} is {', '.join(cells[:5])}" for c, cells in found.items())
    return "".join(texts)


def _is_wanted(row: Row, dataset: Table) -> bool:
    return all(
        row.cells[column] in ((values,) if isinstance(values, str) else values)
        for column, values in dataset.where.items()
    )


@dataclass
class _RowReader:
    dataset: Table
    tasks: dict[str, SiteTask]
    columns: dict[str, tuple[str, ...]]
    issues: list[Issue]
    unlabelled: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._files = FileFinder(self.dataset.root)

    def read(self, row: Row) -> Sample | None:
        """Read a row. Return None if it has no label or an issue."""
        before = len(self.issues)
        targets = {task: self._labels(row, task) for task in self.tasks}
        if len(self.issues) == before and all(np.isnan(v).all() for v in targets.values()):
            self.unlabelled.append(row.where)
            return None
        image, mask = self._file(row, self.dataset.image), None
        if self.dataset.mask and row.cells[self.dataset.mask]:
            mask = self._file(row, self.dataset.mask)
        patient, split = self._patient(row), self._split(row)
        if len(self.issues) > before:
            return None
        return Sample(row.where, image, mask, patient, split, targets, self._metadata(row))

    def _labels(self, row: Row, task: str) -> list[float]:
        entry, targets = self.tasks[task], []
        if entry.separator is not None:
            return self._listed(row, task, entry.separator)
        for column, own in zip(self.columns[task], entry.space.columns, strict=True):
            text = row.cells[column]
            label = entry.values.get(text, text)
            if text not in entry.values and _DECIMAL_COMMA.fullmatch(text):
                label = text.replace(",", ".")
            target = np.nan
            try:
                target = entry.space.encode(own, label)
            except ValueError as error:
                if label.lower() not in MISSING:
                    hint = _meaning(text, entry.space.labels) if entry.space.discrete else ""
                    self._error(row, column, f"{text!r} is no label of {task}: {error}{hint}")
            targets.append(target)
        return targets

    def _listed(self, row: Row, task: str, separator: str) -> list[float]:
        """Read the findings that one cell lists."""
        entry, column = self.tasks[task], self.columns[task][0]
        outputs, text = entry.space.columns, row.cells[column]
        if text.lower() in MISSING and text not in entry.values:
            return [np.nan] * len(outputs)
        parts = {part.strip() for part in text.split(separator)} - {""}
        meant = {entry.values.get(part, part) for part in parts} - {""}
        if unknown := sorted(meant - set(map(str, outputs))):
            hint = f"add it to the labels, or values: {{{unknown[0]}: ''}} to ignore it"
            self._error(row, column, f"{unknown[0]!r} is no label of {task}; {hint}")
        return [float(output in meant) for output in outputs]

    def _file(self, row: Row, column: str) -> Path:
        text = row.cells[column]
        path = self.dataset.root / text
        if not text:
            self._error(row, column, "no image is named")
        elif (found := self._files.find(text)) is not None:
            return found
        elif self.dataset.on_bad_image == "skip":
            message = f"column {column}: {path} is not a file; the row is skipped"
            self.issues.append(Issue("warning", row.where, message))
        else:
            self._error(row, column, f"{path} is not a file{self._files.near(text)}")
        return path

    def _patient(self, row: Row) -> str:
        column = self.dataset.patient
        if column is None:
            return row.cells[self.dataset.image]
        patient = row.cells[column]
        if not patient:
            self._error(row, column, "no patient id; a patient must not be in two splits")
        return patient.partition(".")[0] if _FLOAT_ID.fullmatch(patient) else patient

    def _split(self, row: Row) -> str:
        column = self.dataset.split_column
        if column is None:
            return ""
        text = row.cells[column]
        names = self.dataset.splits or {split: split for split in SPLITS}
        if text not in names:
            expected = f"expected {', '.join(names)}; dataset.splits can map other names"
            self._error(row, column, f"{text!r} is not a split: {expected}")
        return names.get(text, "")

    def _metadata(self, row: Row) -> dict[str, str]:
        columns = {name: row.cells[name] for name in self.dataset.metadata}
        if self.dataset.centre is not None:
            columns[CENTRE] = row.cells[self.dataset.centre]
        return columns

    def _error(self, row: Row, column: str, message: str) -> None:
        self.issues.append(Issue("error", row.where, f"column {column}: {message}"))


def _meaning(text: str, labels: Sequence[str]) -> str:
    """Return the line that gives a cell the meaning of the most similar label."""
    by_name = {label.casefold(): label for label in labels}
    near = difflib.get_close_matches(text.casefold(), by_name, n=1)
    return (
        f"; if it means {by_name[near[0]]}, add values: {{{text}: {by_name[near[0]]}}}"
        if near
        else ""
    )


def _divided(manifest: Manifest, site: SiteConfig, dataset: Table, seed: int) -> Manifest:
    """Draw the splits that the table does not give."""
    val, test = dataset.val_fraction, dataset.test_fraction
    given = dataset.split_column is not None
    if given and ("val" in manifest.splits or not val):
        return manifest
    by: Literal["hash", "stratified"] = "hash" if dataset.by_hash else "stratified"
    manifest = replace(manifest, division=Division(by, val, None if given else test))
    if by == "stratified":
        return stratify({site.name: site}, {site.name: manifest}, seed)[site.name]
    patients, splits = manifest.patients.tolist(), manifest.splits.tolist()
    drawn = (
        carve_validation(patients, splits, seed, val)
        if given
        else split_patients(patients, seed, val, test)
    )
    return replace(manifest, splits=np.array(drawn, dtype=np.str_))


def _manifest(samples: Sequence[Sample], tasks: dict[str, SiteTask]) -> Manifest:
    targets = {
        # reshape: without a sample there is no second axis
        task: np.reshape([s.targets[task] for s in samples], (len(samples), entry.space.width))
        for task, entry in tasks.items()
    }
    names = samples[0].columns if samples else ()
    return Manifest(
        images=tuple(s.image for s in samples),
        rows=tuple(s.where for s in samples),
        patients=np.array([s.patient for s in samples], dtype=np.str_),
        splits=np.array([s.split or "train" for s in samples], dtype=np.dtype("<U6")),
        targets={task: values.astype(np.float32) for task, values in targets.items()},
        masks=tuple(s.mask for s in samples),
        columns={name: np.array([s.columns[name] for s in samples], np.str_) for name in names},
    )
