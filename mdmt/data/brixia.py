"""The reader of BRIXIA: radiographs from Brescia with six zone scores each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path

from mdmt.config.datasets import Brixia
from mdmt.config.site import SiteConfig
from mdmt.data.brixia_score import (
    LEVELS,
    STRUCTURES,
    ZONES,
    centre_of,
    labels_of,
    padded,
    parse_score,
)
from mdmt.data.manifest import CENTRE, Manifest
from mdmt.data.published import Cells, Layout, image_file, read_published
from mdmt.data.table import label_columns
from mdmt.data.tabular import Issue, TabularFile, need_columns, read_tabular_file
from mdmt.errors import DataError

__all__ = ["read_brixia"]


def read_brixia(site: SiteConfig, seed: int) -> tuple[Manifest, list[Issue]]:
    """Read the table of BRIXIA.

    The centre of an image is the group of its manufacturer. Its patient id is in the column
    `dataset.patient`, or ``Subject``, or ``StudyId``: the first that exists. The splits come from
    the split files; or the consensus test set is the test split and a part of the other patients is
    the validation split; or patients are split at random.

    Parameters
    ----------
    site : SiteConfig
        Its `dataset` is a `Brixia`, and its only task fits `dataset.structure`.
    seed : int

    Returns
    -------
    Manifest
    list of Issue

    Raises
    ------
    DataError
        The table cannot be read, columns are missing, or the task does not fit the structure.
    """
    dataset = site.dataset
    assert isinstance(dataset, Brixia)
    site = _fitted(site, dataset)
    tabular = read_tabular_file(dataset.root / dataset.table)
    patient = dataset.patient or ("Subject" if "Subject" in tabular.columns else "StudyId")
    used = ["Filename", "BrixiaScore", "Manufacturer", patient]
    by_consensus = dataset.test == "consensus"
    need_columns(
        tabular, dict.fromkeys(used + ["ConsensusTestset"] * by_consensus, "dataset kind brixia")
    )
    if patient == "StudyId":
        message = "each study counts as a patient; name the column of patients: dataset.patient"
        issue = Issue("warning", str(tabular.path), message)
        tabular = replace(tabular, issues=(*tabular.issues, issue))
    if by_consensus:
        tabular = _split_by_consensus(tabular, patient)
    consensus = _consensus_scores(dataset.root / dataset.consensus) if dataset.consensus else {}
    layout = Layout(
        image="Filename",
        patient=patient,
        centre=CENTRE,
        label="BrixiaScore",
        label_in_split_files="scores",
        meaning=padded,
        added=(*STRUCTURES[dataset.structure], CENTRE),
        parse=partial(_parse, dataset=dataset, consensus=consensus),
    )
    return read_published(tabular, site, seed, layout, split=by_consensus)


def _parse(cells: Cells, dataset: Brixia, consensus: Mapping[str, str]) -> Cells:
    """Return the labels, the centre and the image file of a row."""
    name = cells["Filename"]
    text = cells["BrixiaScore"]
    if consensus and cells["split"] == "test":
        if name not in consensus:
            raise ValueError(f"{name} is in the test set, but not in {dataset.consensus}")
        text = consensus[name]
    labels = dict.fromkeys(STRUCTURES[dataset.structure], "")
    if text:
        scores = labels_of(parse_score(text), dataset.structure)
        labels = {label: str(level) for label, level in scores.items()}
    return labels | {
        CENTRE: centre_of(cells["Manufacturer"], dataset.manufacturers),
        "Filename": image_file(dataset.root, dataset.images, name),
    }


def _split_by_consensus(tabular: TabularFile, patient: str) -> TabularFile:
    """Make the consensus set the test split. Drop other images of its patients."""
    rows, issues = [], list(tabular.issues)
    tested = {row.cells[patient] for row in tabular.rows if row.cells["ConsensusTestset"] == "1"}
    for row in tabular.rows:
        flag = row.cells["ConsensusTestset"]
        if flag not in ("0", "1"):
            message = f"column ConsensusTestset: {flag!r}; expected 0 or 1"
            issues.append(Issue("error", row.where, message))
        elif flag == "0" and row.cells[patient] in tested:
            message = "left out: another image of the patient is in the consensus test set"
            issues.append(Issue("warning", row.where, message))
        else:
            split = "test" if flag == "1" else "train"
            rows.append(replace(row, cells=row.cells | {"split": split}))
    return tabular.changed(rows, issues, "split")


def _consensus_scores(path: Path) -> dict[str, str]:
    """Return six digits by file name: the modes of the scores of five radiologists."""
    tabular = read_tabular_file(path)
    modes = [f"Mode{zone}" for zone in ZONES]
    need_columns(tabular, dict.fromkeys(["Filename", *modes], "dataset.consensus"))
    scores = {}
    for row in tabular.rows:
        digits = [row.cells[mode] for mode in modes]
        if any(len(digit) != 1 for digit in digits):
            raise DataError(f"{row.where}: {', '.join(modes)}: expected one digit each")
        scores[row.cells["Filename"]] = "".join(digits)
    return scores


def _fitted(site: SiteConfig, dataset: Brixia) -> SiteConfig:
    """Set the columns of the only task, and check that it can hold the structure's labels."""
    labels = STRUCTURES[dataset.structure]
    what = f"dataset.structure {dataset.structure} ({', '.join(labels)}, levels 0 to {LEVELS - 1})"
    if len(site.tasks) != 1:
        raise DataError(f"site {site.name}: tasks: {what} is one task, not {len(site.tasks)}")
    ((name, entry),) = site.tasks.items()
    if len(labels) == 1 and not entry.columns:
        entry = entry.model_copy(update={"columns": labels})
    columns = label_columns(name, entry)
    try:
        if sorted(columns) != sorted(labels):
            raise ValueError(f"its columns are {', '.join(columns)}")
        for level in map(str, range(LEVELS)):
            entry.space.encode(entry.space.columns[0], entry.values.get(level, level))
    except ValueError as error:
        raise DataError(f"site {site.name}: task {name} does not fit {what}: {error}") from error
    return site.model_copy(update={"tasks": {name: entry}})
