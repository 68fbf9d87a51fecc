"""What would make the numbers of a study worthless: the same patient or picture on two sides."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence

import numpy as np

from mdmt.config.site import SiteConfig
from mdmt.data.cohort import Cohort
from mdmt.data.manifest import SPLITS, Manifest
from mdmt.data.splits import absent_classes
from mdmt.errors import DataError
from simulation.study.folds import Fold

__all__ = ["check_folds", "check_pictures"]


def check_folds(
    folds: Sequence[Fold],
    sites: Mapping[str, SiteConfig],
    manifests: Mapping[str, Manifest],
    tested: Mapping[str, int],
) -> None:
    """Refuse folds whose results could not be trusted.

    Parameters
    ----------
    folds : sequence of Fold
    sites : mapping of str to SiteConfig
    manifests : mapping of str to Manifest
    tested : mapping of str to int
        Sites every image of which must be in the test split of that many folds.

    Raises
    ------
    DataError
        A patient on two sides of a fold, whatever the sites; a split without a class of one of
        its tasks; an image that is not tested as often as it should.
    """
    for fold in folds:
        where = f"fold {fold.name}"
        _no_patient_on_two_sides(where, {name: fold.apply(name, manifests[name]) for name in sites})
        for name, site in sites.items():
            for task, entry in site.tasks.items():
                manifest = fold.apply(name, manifests[name])
                if absent := absent_classes(manifest, task, entry.space):
                    hint = "use fewer folds, or other splits"
                    raise DataError(f"{where}: site {name}: task {task}: {absent[0]}: {hint}")
    for name, times in tested.items():
        counts = sum((fold.splits[name] == "test").astype(int) for fold in folds)
        for index in np.flatnonzero(counts != times)[:1]:
            row, count = manifests[name].rows[index], np.atleast_1d(counts)[index]
            message = f"is tested in {count} of {len(folds)} folds where {times} are expected"
            raise DataError(f"folds: site {name}: {row}: {message}")


def _no_patient_on_two_sides(where: str, manifests: Mapping[str, Manifest]) -> None:
    seen: dict[str, tuple[str, str]] = {}
    for name, manifest in manifests.items():
        rows = zip(manifest.patients, manifest.splits, manifest.rows, strict=True)
        for patient, split, row in rows:
            if split not in SPLITS:
                continue
            side, other = seen.setdefault(patient, (split, f"{row} of {name}"))
            if side != split:
                message = f"the patient of {row} of {name} ({split}) is that of {other} ({side})"
                raise DataError(f"{where}: {message}: keep a patient on one side")


def check_pictures(folds: Sequence[Fold], cohorts: Mapping[str, Cohort]) -> None:
    """Refuse folds that have one picture on two sides, under whatever names.

    Pictures are compared as they are trained on, so a radiograph kept in two formats is found
    where both give the same pixels.

    Raises
    ------
    DataError
        Names the two rows.
    """
    first: dict[bytes, tuple[str, int]] = {}
    twins = []
    for name, cohort in cohorts.items():
        for index, pixels in enumerate(cohort.pixels):
            digest = hashlib.sha256(pixels.tobytes()).digest()
            other = first.setdefault(digest, (name, index))
            if other != (name, index):
                twins.append((other, (name, index)))
    for fold in folds:
        for pair in twins:
            sides = [str(fold.splits[name][index]) for name, index in pair]
            if sides[0] != sides[1] and "unused" not in sides:
                rows = (f"{cohorts[name].manifest.rows[index]} of {name}" for name, index in pair)
                places = (f"{row} ({side})" for row, side in zip(rows, sides, strict=True))
                same = " and ".join(places)
                raise DataError(f"fold {fold.name}: one picture on two sides, {same}: drop one")
