"""Test predictions of a study as arrays: all folds of one arm, backbone, seed, site and task."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from mdmt.errors import BadInput
from mdmt.results.csv_tables import known_task, read_rows, to_number
from mdmt.tasks import Task
from mdmt.tasks.base import FloatArray

ALL = "all"
"""Stands for all sites (the mean weighted by test images) or all backbones."""


class CellName(NamedTuple):
    """A cell of the grid without its arm: arms are compared within it."""

    backbone: str
    fold: str
    seed: int


class TestSets:
    """Which cells test the same images, and so are not independent replicates.

    In LOCO-18 three folds test the images of a hospital; seeds and backbones test the same images
    unless a study draws its data anew.

    Parameters
    ----------
    predictions : iterable of Predictions
    redrawn : bool
        Images of another seed are different images, although they have the same names.
    """

    __test__ = False  # for pytest, because the name begins with Test

    def __init__(self, predictions: Iterable[Predictions], *, redrawn: bool) -> None:
        self.redrawn = redrawn
        self._sites: dict[str, set[str]] = defaultdict(set)
        images: dict[tuple[str, str, str, int], set[str]] = defaultdict(set)
        for one in predictions:
            self._sites[one.task].add(one.site)
            for fold, image in one.images:
                images[one.task, one.site, fold, one.seed].add(image)
        self._images = {key: frozenset(names) for key, names in images.items()}

    def means(self, task: str, site: str, values: Mapping[CellName, float]) -> list[float]:
        """Mean of the cells of each distinct test set, in order of their first cells."""
        groups: dict[Hashable, list[float]] = defaultdict(list)
        for cell, value in values.items():
            groups[self._name(task, site, cell.fold, cell.seed)].append(value)
        return [sum(group) / len(group) for group in groups.values()]

    def _name(self, task: str, site: str, fold: str, seed: int) -> Hashable:
        sites = sorted(self._sites[task]) if site == ALL else [site]
        images = tuple(self._images.get((task, name, fold, seed), fold) for name in sites)
        return (images or fold), seed if self.redrawn else None


PREDICTION_COLUMNS = (
    *("arm", "backbone", "fold", "seed"),
    *("site", "task", "image", "patient", "output", "target", "prediction"),
)


@dataclass(frozen=True)
class Predictions:
    """Test predictions of one arm for one task at one site: all folds of one seed.

    Models of different folds may be calibrated differently: scores are ranked within a fold.

    Attributes
    ----------
    arm, backbone, site, task : str
    seed : int
    space : Task
    images : tuple of (str, str), length N
        Fold and image. The images of a fold are consecutive.
    patients : ndarray of str, (N,)
    targets : ndarray, float64, (N, space.width)
        NaN is a missing label.
    predictions : ndarray, float64, (N, len(space.prediction_names))
    """

    arm: str
    backbone: str
    seed: int
    site: str
    task: str
    space: Task
    images: tuple[tuple[str, str], ...]
    patients: NDArray[np.str_]
    targets: FloatArray
    predictions: FloatArray

    @property
    def folds(self) -> NDArray[np.str_]:
        """Fold of each image, (N,); the model of that fold predicted it."""
        return np.array([fold for fold, _ in self.images])

    @property
    def truth(self) -> FloatArray:
        """Targets with a column per prediction, (N, P); see `Task.truth`."""
        return self.space.truth(self.targets)

    def counts(self, rows: NDArray[np.bool_]) -> dict[str, int]:
        """Number of distinct images and patients in some rows; folds may test the same ones."""
        names = {name for (_, name), chosen in zip(self.images, rows, strict=True) if chosen}
        return {"images": len(names), "patients": len(np.unique(self.patients[rows]))}

    @property
    def key(self) -> dict[str, str | int]:
        """Backbone, seed, site and task, which it shares with other arms."""
        return {key: getattr(self, key) for key in ("backbone", "seed", "site", "task")}


def read_predictions(files: Iterable[Path], spaces: Mapping[str, Task]) -> list[Predictions]:
    """Read tables with `PREDICTION_COLUMNS` and join the folds of each model.

    Raises
    ------
    BadInput
        A file lacks a column, or a row names an unknown task or output.
    """
    found: dict[tuple[str, str, int, str, str], list[tuple[str, ...]]] = defaultdict(list)
    for file in files:
        for row in read_rows(file, PREDICTION_COLUMNS):
            known_task(file, row["task"], spaces)
            seed = int(to_number(file, row["seed"]) or 0)
            key = row["arm"], row["backbone"], seed, row["site"], row["task"]
            names = ("fold", "image", "patient", "output", "target", "prediction")
            found[key].append((str(file), *(row[name] for name in names)))
    return [
        Predictions(*key, spaces[key[4]], *_arrays(spaces[key[4]], rows))
        for key, rows in found.items()
    ]


def _arrays(
    space: Task, rows: list[tuple[str, ...]]
) -> tuple[tuple[tuple[str, str], ...], NDArray[np.str_], FloatArray, FloatArray]:
    """Images, patients, targets and predictions of rows, in order of the images."""
    patients = {(fold, image): patient for _, fold, image, patient, *_ in rows}
    row_of = {image: row for row, image in enumerate(patients)}
    column_of = {name: column for column, name in enumerate(space.prediction_names)}
    targets, predictions = np.full((2, len(row_of), len(column_of)), np.nan)
    for file, fold, image, _, output, target, prediction in rows:
        if output not in column_of:
            raise BadInput(f"{file}: the output {output} is none of {', '.join(column_of)}")
        place = row_of[fold, image], column_of[output]
        for values, text in ((targets, target), (predictions, prediction)):
            value = to_number(file, text)
            values[place] = np.nan if value is None else value
    restored = space.from_table(targets, predictions)
    return tuple(row_of), np.array(list(patients.values())), *restored
