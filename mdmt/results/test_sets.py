"""Cells of a study, and which of them test the same images."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Iterable, Mapping
from typing import NamedTuple

from mdmt.results.predictions import Predictions

__all__ = ["ALL", "CellName", "TestSets"]

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
