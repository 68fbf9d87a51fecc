"""Divide patients into train, val and test. All images of a patient get the same split."""

import csv
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import numpy as np
from numpy.typing import NDArray

from mdmt.data.manifest import SPLITS, Division, Manifest, Split
from mdmt.errors import DataError
from mdmt.files import atomic_path
from mdmt.seeds import derive_seed
from mdmt.tasks import Task


def split_patients(
    patients: Sequence[str], seed: int, val_fraction: float, test_fraction: float
) -> list[str]:
    """Split by a hash of (seed, patient) alone.

    So a patient of two hospitals with equal fractions gets the same split at both, and the
    hospitals do not need to compare lists. The fractions hold on average only, labels are not
    balanced over the splits, and a split of a small site can be empty.

    Parameters
    ----------
    patients : sequence of str, length N
        Patient of each row.
    seed : int
    val_fraction, test_fraction : float
        Expected fractions of patients; their sum is below 1.

    Returns
    -------
    list of str, length N
        ``train``, ``val`` or ``test`` for each row.
    """

    def side(patient: str) -> str:
        place = position(seed, patient)
        # Validation comes first, so that `carve_validation` chooses the same patients.
        if place < val_fraction:
            return "val"
        return "test" if place < val_fraction + test_fraction else "train"

    return [side(patient) for patient in patients]


def position(seed: int, patient: str) -> float:
    """Return the place of a patient in [0, 1): a hash of (seed, patient)."""
    return derive_seed(seed, "split", patient) / 2**63


def carve_validation(
    patients: Sequence[str], splits: Sequence[str], seed: int, val_fraction: float
) -> list[str]:
    """Move patients from ``train`` to ``val``: those for whom `split_patients` gives ``val``.

    Returns
    -------
    list of str, length N
    """
    sides = split_patients(patients, seed, val_fraction, 0.0)
    return [
        "val" if (split, side) == ("train", "val") else split
        for split, side in zip(splits, sides, strict=True)
    ]


def deal_patients(
    strata: NDArray[Any], rng: np.random.Generator, val_fraction: float, test_fraction: float
) -> NDArray[np.str_]:
    """Split the patients of one site in exact fractions, stratified.

    This is for synthetic data, where a patient has only one site.

    Parameters
    ----------
    strata : ndarray, (P,)
        The value that is balanced over the splits, such as the outcome.
    rng : numpy.random.Generator
    val_fraction, test_fraction : float
        Fractions of patients, rounded. A fraction above 0 gives at least one patient.

    Returns
    -------
    ndarray of str, (P,)
    """
    splits = np.full(len(strata), "train")
    by_stratum = np.lexsort((rng.random(len(strata)), strata))
    for split, fraction in (("test", test_fraction), ("val", val_fraction)):
        left = by_stratum[splits[by_stratum] == "train"]
        count = max(1, round(fraction * len(strata))) if fraction > 0 else 0
        # Equal steps through a list sorted by stratum take the same fraction of every stratum.
        steps = (np.arange(count) + 0.5) * len(left) / max(count, 1)
        splits[left[steps.astype(np.intp)]] = split
    return splits


def absent_classes(manifest: Manifest, task: str, space: Task) -> list[str]:
    """Return a message for each split that lacks necessary labels.

    Train and test must have a label of the task. A split with labels of exclusive classes must have
    every class, because otherwise its AUROC is undefined.
    """
    problems = []
    for split in SPLITS:
        targets = manifest.targets[task][manifest.indices(split)]
        if not np.isfinite(targets).any():
            if split != "val":
                problems.append(f"no label in the {split} split")
        elif space.exclusive:
            counts = space.histogram(targets)[""]
            absent = [label for label, count in counts.items() if count == 0]
            if absent:
                problems.append(f"no {' and no '.join(absent)} in the {split} split")
    return problems


_HEADER = ["row", "split"]
_LABELS = "labels of {} from"
_SPLITS = (*get_args(Split), "unused")


def write_division(
    file: Path, manifest: Manifest, labels_from: tuple[str, NDArray[np.intp]] | None = None
) -> None:
    """Write the splits of `manifest` as a CSV file with the columns row and split.

    Parameters
    ----------
    file : Path
    manifest : Manifest
    labels_from : (str, ndarray of int, (N,)), optional
        A task and the position of the image whose label each image takes, for a negative control.
        A column ``labels of TASK from`` has the row of this image.
    """
    header, columns = _HEADER, [manifest.rows, manifest.splits.tolist()]
    if labels_from is not None:
        task, positions = labels_from
        header = [*header, _LABELS.format(task)]
        columns.append([manifest.rows[position] for position in positions])
    with atomic_path(file) as temporary, temporary.open("w", newline="", encoding="utf-8") as out:
        table = csv.writer(out, lineterminator="\n")
        table.writerow(header)
        table.writerows(zip(*columns, strict=True))


def divide(manifest: Manifest, file: Path) -> Manifest:
    """Replace the splits (and labels) of `manifest` by those that `write_division` wrote.

    Raises
    ------
    DataError
        The file is missing or invalid, or was written for other rows.
    """
    try:
        with file.open(newline="", encoding="utf-8") as source:
            header, *lines = csv.reader(source)
        task = next((t for t in manifest.targets if header[2:] == [_LABELS.format(t)]), None)
        width = 2 if task is None else 3
        if {len(header), *map(len, lines)} != {width}:
            raise ValueError(f"expected {width} columns in each line")
        splits = {line[0]: line[1] for line in lines}
    except (OSError, ValueError) as error:
        raise DataError(f"{file}: is not a file of rows and their splits ({error})") from error
    if header[:2] != _HEADER or not set(splits.values()) <= set(_SPLITS):
        raise DataError(f"{file}: expected columns row and split, one of {', '.join(_SPLITS)}")
    for row in manifest.rows:
        if row not in splits:
            raise DataError(f"{file}: no split for {row}: it was written for other data")
    found = np.array([splits[row] for row in manifest.rows])
    divided = replace(manifest, splits=found, division=Division())
    if task is None:
        return divided
    origin_of = {line[0]: line[2] for line in lines}
    position_of = {row: number for number, row in enumerate(manifest.rows)}
    if not set(origin_of.values()) <= position_of.keys():
        raise DataError(f"{file}: {_LABELS.format(task)}: it was written for other data")
    origins = [position_of[origin_of[row]] for row in manifest.rows]
    targets = {**manifest.targets, task: manifest.targets[task][origins]}
    return replace(divided, targets=targets)
