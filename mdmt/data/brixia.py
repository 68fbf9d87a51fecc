"""The reader of BRIXIA: radiographs from Brescia with six zone scores each."""

import re
from bisect import bisect_left
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path

from mdmt.config.datasets import Brixia
from mdmt.config.site import SiteConfig
from mdmt.data.manifest import CENTRE, Manifest
from mdmt.data.published import Cells, Layout, image_file, read_published
from mdmt.data.table import label_columns
from mdmt.data.tabular import Issue, TabularFile, need_columns, read_tabular_file
from mdmt.errors import DataError

ZONES = ("A", "B", "C", "D", "E", "F")
"""Upper, middle and lower zone of the right lung, then of the left lung (Borghesi & Maroldi 2020).
The right lung is on the left side of the picture."""
LEVELS = 4
"""Number of scores of a zone: 0 to 3."""
STRUCTURES = {"zones": ZONES, "lungs": ("right", "left"), "global": ("global",)}
"""Labels of each structure."""
LUNG_EDGES = (1, 4, 7)
"""Highest sums of the three scores of a lung for levels 0, 1 and 2; a higher sum is level 3."""
GLOBAL_EDGES = (4, 9, 14)
"""Highest sums of all six scores for the global levels 0, 1 and 2; a higher sum is level 3."""
VENDORS = {
    "SIEMENS": "SIEMENS",
    "KODAK": "SIEMENS",
    "AGFA": "AGFA",
    "FUJIFILM": "AGFA",
    "CARESTREAM": "CARESTREAM",
    "VILLA SISTEMI MEDICALI": "CARESTREAM",
    "DIGITEC": "CARESTREAM",
}
"""The three centres of the paper, by the beginning of the manufacturer's name."""


def parse_score(text: str) -> tuple[int, ...]:
    """Read a Brixia score: six digits. Leading zeros may be missing, as in spreadsheets.

    Parameters
    ----------
    text : str
        ``013112``, or ``[13112]`` as in the split files of the authors.

    Returns
    -------
    tuple of int, length 6
        Scores from 0 to 3 of the zones A to F.

    Raises
    ------
    ValueError
        The text is not a Brixia score.

    Examples
    --------
    >>> parse_score("[12023]")
    (0, 1, 2, 0, 2, 3)
    """
    digits = padded(text)
    if not re.fullmatch(r"[0-9]{6}", digits):
        raise ValueError(f"{text!r} is not a Brixia score; expected six digits, such as 013112")
    for zone, digit in zip(ZONES, digits, strict=True):
        if int(digit) >= LEVELS:
            raise ValueError(f"{text!r} has {digit} in zone {zone}: scores are 0 to {LEVELS - 1}")
    return tuple(int(digit) for digit in digits)


def padded(text: str) -> str:
    """Remove the brackets of a score and add its missing leading zeros."""
    return text.removeprefix("[").removesuffix("]").zfill(len(ZONES))


def labels_of(scores: tuple[int, ...], structure: str) -> dict[str, int]:
    """Return the level of each label of a structure in `STRUCTURES`.

    Examples
    --------
    >>> labels_of((0, 0, 1, 3, 3, 2), "lungs"), labels_of((0, 0, 1, 3, 3, 2), "global")
    ({'right': 0, 'left': 3}, {'global': 1})
    """
    right, left = sum(scores[:3]), sum(scores[3:])
    match structure:
        case "zones":
            levels = scores
        case "lungs":
            levels = (bisect_left(LUNG_EDGES, right), bisect_left(LUNG_EDGES, left))
        case _:
            levels = (bisect_left(GLOBAL_EDGES, right + left),)
    return dict(zip(STRUCTURES[structure], levels, strict=True))


def centre_of(manufacturer: str, others: Mapping[str, str]) -> str:
    """Return the centre of a manufacturer by the beginning of its name.

    ``Agfa-Gevaert`` belongs to the centre AGFA. Upper and lower case do not matter.

    Parameters
    ----------
    manufacturer : str
    others : mapping of str to str
        Centre of other manufacturers by the beginning of their names.

    Raises
    ------
    ValueError
        The manufacturer is unknown.
    """
    for beginning, centre in {**others, **VENDORS}.items():
        if manufacturer.upper().startswith(beginning.upper()):
            return centre
    raise ValueError(
        f"unknown manufacturer {manufacturer!r}; set its centre in dataset.manufacturers"
    )


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
