"""Predictions of a study's test images, read back as arrays: all folds of one seed."""

from __future__ import annotations

import csv
from collections import defaultdict
from collections.abc import Hashable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from mdmt.tasks import Classification, Multilabel, Task
from mdmt.tasks.base import FloatArray
from simulation.study.cells import Finished
from simulation.study.config import StudyConfig

__all__ = ["ALL", "CellKey", "Predicted", "TestSets", "pooled_predictions"]

ALL = "all"
"""Stands for all sites (the mean weighted by test images) or all backbones."""

CellKey = tuple[str, str, Any]
"""Backbone, fold and seed."""
_Key = TypeVar("_Key", bound=CellKey)


class TestSets:
    """Which cells test the same images, and so are no independent replicates.

    In LOCO-18 three folds test the images of a hospital; seeds and backbones test the same unless
    a study draws its data anew.

    Parameters
    ----------
    images : mapping of (str, str, str, str) to set of str
        Task, site, fold and seed → names of the images that are tested.
    redrawn : bool
        Images of another seed are others, though they have the same names.
    """

    def __init__(
        self, images: Mapping[tuple[str, str, str, str], Set[str]], *, redrawn: bool
    ) -> None:
        self.redrawn = redrawn
        self._sites: dict[str, set[str]] = defaultdict(set)
        self._images = {key: frozenset(names) for key, names in images.items()}
        for task, site, *_ in images:
            self._sites[task].add(site)

    def means(self, task: str, site: str, values: Mapping[_Key, float]) -> list[float]:
        """Mean of the cells of each distinct test set, in order of their first cells."""
        groups: dict[Hashable, list[float]] = defaultdict(list)
        for (_, fold, seed), value in values.items():
            groups[self._name(task, site, fold, str(seed))].append(value)
        return [sum(group) / len(group) for group in groups.values()]

    def _name(self, task: str, site: str, fold: str, seed: str) -> Hashable:
        sites = sorted(self._sites[task]) if site == ALL else [site]
        images = tuple(self._images.get((task, name, fold, seed), fold) for name in sites)
        return (images or fold), seed if self.redrawn else ""


@dataclass(frozen=True)
class Predicted:
    """One arm's predictions for one task at one site, from all test folds of one seed.

    Models of different folds may be calibrated differently: scores are ranked within a fold.

    Attributes
    ----------
    arm, backbone, site, task : str
    seed : int
    space : Task
    images : tuple of str, length N
        Fold and image; images of one fold stand together.
    patients : ndarray of str, (N,)
    targets : ndarray, float64, (N, width)
    predictions : ndarray, float64, (N, P)
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
        """Fold of each image, whose model predicted it, (N,)."""
        return np.array([fold for fold, _ in self.images])

    def counts(self, rows: NDArray[np.bool_]) -> dict[str, int]:
        """How many images and patients there are in some rows; folds may test the same ones."""
        names = {name for (_, name), chosen in zip(self.images, rows, strict=True) if chosen}
        return {"images": len(names), "patients": len(np.unique(self.patients[rows]))}

    @property
    def key(self) -> dict[str, str | int]:
        """What it shares with other arms."""
        return {
            "backbone": self.backbone,
            "seed": self.seed,
            "site": self.site,
            "task": self.task,
        }

    def binary_outputs(self) -> list[tuple[str, int]]:
        """Outputs that have an AUROC: name and column of `predictions`."""
        names = list(enumerate(self.space.prediction_names))
        if isinstance(self.space, Classification):
            names = names[1:] if len(names) == 2 else names
        elif not isinstance(self.space, Multilabel):
            names = []
        return [(name, column) for column, name in names]

    def binary_targets(self, column: int) -> FloatArray:
        """1 for a positive of an output, 0 for a negative, NaN where it is not labelled."""
        if isinstance(self.space, Classification):
            truth = self.targets[:, 0]
            return np.where(np.isnan(truth), np.nan, (truth == column).astype(np.float64))
        return self.targets[:, column]


def pooled_predictions(study: StudyConfig, cells: Sequence[Finished]) -> Iterator[Predicted]:
    """Join the test predictions of every arm, backbone, seed, site and task over the folds."""
    groups: dict[tuple[str, str, int], list[Finished]] = defaultdict(list)
    for one in cells:
        groups[one.cell.arm.label, one.cell.backbone.label, one.cell.seed].append(one)
    for (arm, backbone, seed), group in groups.items():
        by_task: dict[tuple[str, str], list[dict[str, str]]] = defaultdict(list)
        for one in group:
            with one.predictions.open(newline="", encoding="utf-8") as file:
                for row in csv.DictReader(file):
                    by_task[row["site"], row["task"]].append(row)
        for (site, task), rows in by_task.items():
            space = study.federation.space(task)
            yield Predicted(arm, backbone, seed, site, task, space, *_arrays(space, rows))


def _arrays(
    space: Task, rows: list[dict[str, str]]
) -> tuple[tuple[tuple[str, str], ...], NDArray[np.str_], FloatArray, FloatArray]:
    """Images, patients, targets and predictions of rows, in order of the images."""
    patients = {(row["fold"], row["image"]): row["patient"] for row in rows}
    index = {image: number for number, image in enumerate(patients)}
    columns = {name: column for column, name in enumerate(space.prediction_names)}
    shape = len(index), len(columns)
    targets, predictions = np.full(shape, np.nan), np.full(shape, np.nan)
    for row in rows:
        place = index[row["fold"], row["image"]], columns[row["output"]]
        targets[place], predictions[place] = float(row["target"]), float(row["prediction"])
    if isinstance(space, Classification):
        if shape[1] == 2:  # the tables have the second class alone
            predictions[:, 0] = 1 - predictions[:, 1]
            targets = targets[:, 1:]
        else:
            targets = targets.argmax(axis=1)[:, None].astype(np.float64)
    return tuple(index), np.array(list(patients.values())), targets, predictions
