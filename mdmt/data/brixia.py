"""The reader of BRIXIA: radiographs of Brescia with six zone scores each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path

from mdmt.config.datasets import Brixia
from mdmt.config.site import SiteConfig, SiteTask
from mdmt.data.brixia_score import STRUCTURES, centre_of, labels_of, padded, parse_score
from mdmt.data.manifest import CENTRE, Manifest
from mdmt.data.published import Cells, divided, image_file, read_published, table_of
from mdmt.data.synthetic_radiograph import LEVELS, ZONES
from mdmt.data.table import label_columns
from mdmt.data.tabular import Issue, TabularFile, need_columns, read_tabular_file
from mdmt.errors import DataError
from mdmt.tasks import Classification, Ordinal, Regression

__all__ = ["read_brixia"]


def read_brixia(site: SiteConfig, seed: int) -> tuple[Manifest, list[Issue]]:
    """Read BRIXIA's table.

    The centre of an image is its manufacturer's group; its patient is in `dataset.patient`, else
    ``Subject``, else ``StudyId``, the first that there is. Splits are those of the split files; or
    the consensus test set and validation carved by patient; or all three dealt by patient.

    Parameters
    ----------
    site : SiteConfig
        Its `dataset` is a `Brixia`; its one task fits `dataset.structure`.
    seed : int

    Returns
    -------
    Manifest
    list of Issue

    Raises
    ------
    DataError
        No table, columns missing, or a task that does not fit the structure.
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
        message = "studies count as patients, of whom a person may be several: is there no Subject?"
        issue = Issue("warning", str(tabular.path), message)
        tabular = replace(tabular, issues=(*tabular.issues, issue))
    if by_consensus:
        tabular = _consensus_apart(tabular, patient)
    elif dataset.split_files is not None:
        folder = dataset.root / dataset.split_files
        tabular = divided(tabular, folder, "Filename", ("scores", "BrixiaScore"), padded)
    split = by_consensus or dataset.split_files is not None
    table = table_of(dataset, image="Filename", patient=patient, centre=CENTRE, split=split)
    consensus = _consensus_scores(dataset.root / dataset.consensus) if dataset.consensus else {}
    adds = (*STRUCTURES[dataset.structure], CENTRE)
    parse = partial(_parse, dataset=dataset, consensus=consensus)
    return read_published(tabular, site, table, seed, adds, parse)


def _parse(cells: Cells, dataset: Brixia, consensus: Mapping[str, str]) -> Cells:
    """Labels, centre and image file of a row."""
    name = cells["Filename"]
    text = cells["BrixiaScore"]
    if consensus and cells["split"] == "test":
        if name not in consensus:
            raise ValueError(f"{name} is not in {dataset.consensus}, which scores the test set")
        text = consensus[name]
    labels = dict.fromkeys(STRUCTURES[dataset.structure], "")
    if text:
        scores = labels_of(parse_score(text), dataset.structure)
        labels = {label: str(level) for label, level in scores.items()}
    return labels | {
        CENTRE: centre_of(cells["Manufacturer"], dataset.manufacturers),
        "Filename": image_file(dataset.root, dataset.images, name),
    }


def _consensus_apart(tabular: TabularFile, patient: str) -> TabularFile:
    """Make the consensus test set the test split, and leave out its patients' other images."""
    in_test = {"1": True, "0": False}
    rows, issues = [], list(tabular.issues)
    tested = {row.cells[patient] for row in tabular.rows if row.cells["ConsensusTestset"] == "1"}
    for row in tabular.rows:
        flag = row.cells["ConsensusTestset"]
        if flag not in in_test:
            message = f"column ConsensusTestset: {flag!r}: expected 0 or 1"
            issues.append(Issue("error", row.where, message))
        elif in_test[flag] or row.cells[patient] not in tested:
            split = "test" if in_test[flag] else "train"
            rows.append(replace(row, cells=row.cells | {"split": split}))
        else:
            message = "left out: another image of the patient is in the consensus test set"
            issues.append(Issue("warning", row.where, message))
    columns = tuple(dict.fromkeys((*tabular.columns, "split")))
    return TabularFile(tabular.path, columns, tuple(rows), tuple(issues))


def _consensus_scores(path: Path) -> dict[str, str]:
    """Six digits by file name: the modes of the five radiologists' scores."""
    tabular = read_tabular_file(path)
    modes = [f"Mode{zone}" for zone in ZONES]
    need_columns(tabular, dict.fromkeys(["Filename", *modes], "dataset.consensus"))
    scores = {}
    for row in tabular.rows:
        digits = [row.cells[mode] for mode in modes]
        if any(len(digit) != 1 for digit in digits):
            raise DataError(f"{row.where}: {', '.join(modes)}: expected a digit each")
        scores[row.cells["Filename"]] = "".join(digits)
    return scores


def _fitted(site: SiteConfig, dataset: Brixia) -> SiteConfig:
    """Name the columns of the site's one task, which must hold the structure's labels."""
    labels = STRUCTURES[dataset.structure]
    what = f"dataset.structure {dataset.structure} ({', '.join(labels)}, levels 0 to {LEVELS - 1})"
    if len(site.tasks) != 1:
        raise DataError(f"site {site.name}: tasks: {what} is one task, not {len(site.tasks)}")
    ((name, entry),) = site.tasks.items()
    if len(labels) == 1 and not entry.columns:
        entry = entry.model_copy(update={"columns": labels})
    columns = label_columns(name, entry)
    misfit = _misfit(entry)
    if sorted(columns) != sorted(labels):
        misfit = f"its columns are {', '.join(columns)}"
    if misfit:
        raise DataError(f"site {site.name}: task {name} does not fit {what}: {misfit}")
    return site.model_copy(update={"tasks": {name: entry}})


def _misfit(entry: SiteTask) -> str | None:
    match entry.space:
        case Ordinal(levels=levels):
            return None if levels == LEVELS else f"it has {levels} levels"
        case Regression(range=(low, high)):
            return None if low <= 0 and high >= LEVELS - 1 else f"its range is {low:g} to {high:g}"
        case Classification(classes=classes):
            named = all(entry.values.get(str(i), str(i)) in classes for i in range(LEVELS))
            return (
                None
                if named
                else f"tasks values must name a class for each level 0 to {LEVELS - 1}"
            )
        case space:
            return f"its kind is {space.kind}"
