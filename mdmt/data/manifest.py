"""The one tabular form of a dataset: what every reader returns and everything else takes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

__all__ = ["CENTRE", "SPLITS", "Manifest", "Split"]

Split = Literal["train", "val", "test"]
SPLITS: tuple[Split, ...] = ("train", "val", "test")
CENTRE = "centre"
"""The one of `Manifest.columns` that folds are made by."""


@dataclass(frozen=True)
class Manifest:
    """N images with their patients, splits and targets. It never leaves the site.

    Parameters
    ----------
    images : tuple of Path, length N
    rows : tuple of str, length N
        Where each image stands, for messages: ``labels.csv:17``.
    patients : ndarray of str, (N,)
    splits : ndarray of str, (N,)
        Each ``train``, ``val`` or ``test``; a fold may leave an image ``unused``.
    targets : mapping of str to ndarray, float32, (N, width of the task)
        By task; NaN where a label is missing.
    masks : tuple of Path or None, length N
        Lung masks.
    columns : mapping of str to ndarray of str, (N,)
        What else the dataset tells of an image and a study may ask for, by column: `CENTRE`, age,
        view; empty text where it is not known.
    """

    images: tuple[Path, ...]
    rows: tuple[str, ...]
    patients: NDArray[np.str_]
    splits: NDArray[np.str_]
    targets: Mapping[str, NDArray[np.float32]]
    masks: tuple[Path | None, ...]
    columns: Mapping[str, NDArray[np.str_]] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.images)

    def select(self, indices: NDArray[np.intp]) -> Manifest:
        """The rows at `indices`, in that order."""
        return Manifest(
            images=tuple(self.images[i] for i in indices),
            rows=tuple(self.rows[i] for i in indices),
            patients=self.patients[indices],
            splits=self.splits[indices],
            targets={task: values[indices] for task, values in self.targets.items()},
            masks=tuple(self.masks[i] for i in indices),
            columns={name: values[indices] for name, values in self.columns.items()},
        )

    def indices(self, split: Split) -> NDArray[np.intp]:
        """Positions of the images of `split`, ascending."""
        return np.flatnonzero(self.splits == split)

    def labelled(self, task: str, split: Split) -> int:
        """n_{s,t}: how many target values of `task` are present in `split`."""
        return int(np.isfinite(self.targets[task][self.indices(split)]).sum())
