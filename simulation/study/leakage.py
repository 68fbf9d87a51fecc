"""Checks of folds: a patient or a picture on two sides would make a study's numbers worthless."""

import hashlib
from collections.abc import Hashable, Mapping, Sequence

import numpy as np

from mdmt.data.cohort import Cohort
from mdmt.data.splits import absent_classes
from mdmt.errors import DataError
from simulation.study.folds import Fold, Manifests, Sites

__all__ = ["check_folds", "check_pictures"]


def check_folds(
    folds: Sequence[Fold], sites: Sites, manifests: Manifests, tested: Mapping[str, int]
) -> None:
    """Refuse folds whose results could not be trusted.

    Parameters
    ----------
    folds : sequence of Fold
    sites : mapping of str to SiteConfig
    manifests : mapping of str to Manifest
    tested : mapping of str to int
        Sites of which every image must be in the test split of that many folds.

    Raises
    ------
    DataError
        A patient is on two sides of a fold, at one site or at two; a split lacks a class of one of
        its tasks; an image is tested too often or too rarely.
    """
    patients = {site: manifest.patients.tolist() for site, manifest in manifests.items()}
    for fold in folds:
        _keep_on_one_side(fold, manifests, patients, "patient")
        for name, site in sites.items():
            divided = fold.apply(name, manifests[name])
            for task, entry in site.tasks.items():
                if absent := absent_classes(divided, task, entry.space):
                    raise DataError(
                        f"fold {fold.name}: site {name}: task {task}: {absent[0]}: use fewer folds,"
                        " or other splits"
                    )
    for name, times in tested.items():
        counts = np.sum([fold.splits[name] == "test" for fold in folds], axis=0)
        for index in np.flatnonzero(counts != times)[:1]:
            row = manifests[name].rows[index]
            message = f"tested in {counts[index]} of {len(folds)} folds where {times} are expected"
            raise DataError(f"folds: site {name}: {row}: is {message}")


def check_pictures(folds: Sequence[Fold], cohorts: Mapping[str, Cohort]) -> None:
    """Refuse folds with the same picture in two splits, under any names.

    Pictures are compared as they are trained on, so that a radiograph kept in two formats is found
    if both give the same pixels.

    Raises
    ------
    DataError
        Names the two rows.
    """
    manifests = {site: cohort.manifest for site, cohort in cohorts.items()}
    digests = {
        site: [hashlib.sha256(pixels.tobytes()).digest() for pixels in cohort.pixels]
        for site, cohort in cohorts.items()
    }
    for fold in folds:
        _keep_on_one_side(fold, manifests, digests, "picture")


def _keep_on_one_side(
    fold: Fold, manifests: Manifests, keys: Mapping[str, Sequence[Hashable]], what: str
) -> None:
    """Refuse a fold that has images of the same key in two splits; ``unused`` ones do not count."""
    seen: dict[Hashable, tuple[str, str]] = {}
    for site, manifest in manifests.items():
        for key, split, row in zip(keys[site], fold.splits[site], manifest.rows, strict=True):
            if split == "unused":
                continue
            place = f"{row} of {site} ({split})"
            side, other = seen.setdefault(key, (split, place))
            if side != split:
                raise DataError(
                    f"fold {fold.name}: one {what} on two sides, {other} and {place}: keep a {what}"
                    " on one side"
                )
