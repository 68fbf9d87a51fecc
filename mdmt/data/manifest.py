"""The manifest: the common form of a dataset. Every reader returns one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Split = Literal["train", "val", "test"]
SPLITS: tuple[Split, ...] = ("train", "val", "test")
CENTRE = "centre"
"""The entry of `Manifest.columns` that folds are made from."""


@dataclass(frozen=True)
class Division:
    """How the splits of a manifest were chosen.

    Parameters
    ----------
    by : {"dataset", "hash", "stratified"}
        The dataset gives them; or the hash of the patient id (`split_patients`); or patients are
        dealt in exact fractions (`mdmt.data.stratified`).
    val : float
        Fraction of the patients; of the training patients if the dataset gives the test split.
    test : float or None
        Fraction of the patients; None if the dataset gives the test split.
    """

    by: Literal["dataset", "hash", "stratified"] = "dataset"
    val: float = 0.0
    test: float | None = None

    def __str__(self) -> str:
        if self.by == "dataset":
            return "the splits are those of the dataset"
        exact = "in exact fractions, stratified by class"
        how = {"hash": "by the hash of the patient id", "stratified": exact}[self.by]
        if self.test is None:
            who = f"{self.val:.0%} of the training patients validate"
            return f"the test split is that of the dataset; {who}, chosen {how}"
        parts = (1 - self.val - self.test, self.val, self.test)
        return f"patients are split {'/'.join(f'{100 * p:.3g}' for p in parts)} {how}"


@dataclass(frozen=True)
class Manifest:
    """N images with their patients, splits and targets. A manifest never leaves the site.

    Parameters
    ----------
    images : tuple of Path, length N
    rows : tuple of str, length N
        File and row of each image, for messages: ``labels.csv:17``.
    patients : ndarray of str, (N,)
    splits : ndarray of str, (N,)
        ``train``, ``val`` or ``test``; a fold can also set ``unused``.
    targets : mapping of str to ndarray, float32, (N, width of the task)
        By task; NaN is a missing label.
    masks : tuple of Path or None, length N
        Lung masks.
    columns : mapping of str to ndarray of str, (N,)
        Other columns of the dataset that a study can use: `CENTRE`, age, view. Empty text if
        unknown.
    account : str
        How many rows the table has, how many are used, and why the others are not.
    division : Division
        How the splits were chosen.
    """

    images: tuple[Path, ...]
    rows: tuple[str, ...]
    patients: NDArray[np.str_]
    splits: NDArray[np.str_]
    targets: Mapping[str, NDArray[np.float32]]
    masks: tuple[Path | None, ...]
    columns: Mapping[str, NDArray[np.str_]] = field(default_factory=dict)
    account: str = ""
    division: Division = Division()

    def __len__(self) -> int:
        return len(self.images)

    def select(self, indices: NDArray[np.intp]) -> Manifest:
        """Return the images at `indices`, in this order."""
        return Manifest(
            images=tuple(self.images[i] for i in indices),
            rows=tuple(self.rows[i] for i in indices),
            patients=self.patients[indices],
            splits=self.splits[indices],
            targets={task: values[indices] for task, values in self.targets.items()},
            masks=tuple(self.masks[i] for i in indices),
            columns={name: values[indices] for name, values in self.columns.items()},
            account=self.account,
            division=self.division,
        )

    def indices(self, split: Split) -> NDArray[np.intp]:
        """Return the ascending positions of the images of `split`."""
        return np.flatnonzero(self.splits == split)

    def labelled(self, task: str, split: Split) -> int:
        """Count the present target values of `task` in `split`: n_{s,t} in docs/method.md."""
        return int(np.isfinite(self.targets[task][self.indices(split)]).sum())

    def labelled_images(self, task: str, split: Split) -> int:
        """Count the images of `split` that have a label of `task`."""
        return int(np.isfinite(self.targets[task][self.indices(split)]).any(axis=1).sum())
