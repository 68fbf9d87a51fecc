"""Split patients in exact fractions, stratified by class, at one site or at all sites at once."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from itertools import groupby

import numpy as np
from numpy.typing import NDArray

from mdmt.config.site import SiteConfig
from mdmt.data.manifest import Manifest
from mdmt.data.splits import position

Sites = Mapping[str, SiteConfig]
Manifests = Mapping[str, Manifest]
Strata = Mapping[str, tuple[str, ...]]
"""By patient: the sites and classes of its images."""

QUARTERS = (0.25, 0.5, 0.75)
"""Strata of a task without classes: quarters of its images, by the mean of their labels."""


def stratify(sites: Sites, manifests: Manifests, seed: int) -> dict[str, Manifest]:
    """Divide the manifests whose division is ``stratified``.

    The sites are dealt one after the other. A patient of several sites gets one side: that of a
    site whose dataset or hash gives it, or that of the first site. The result depends on the seed
    and on the set of patients with their labels, not on the order of the rows.

    Parameters
    ----------
    sites : mapping of str to SiteConfig
        Their tasks are used.
    manifests : mapping of str to Manifest
    seed : int

    Returns
    -------
    dict of str to Manifest
        All manifests.
    """
    strata = _strata(sites, manifests)
    drawn = {n: m for n, m in sorted(manifests.items()) if m.division.by == "stratified"}
    known: dict[str, str] = {}
    for _, manifest in sorted(manifests.items()):
        fixed = ~_free(manifest) & (manifest.splits != "unused")
        pairs = zip(manifest.patients[fixed].tolist(), manifest.splits[fixed].tolist(), strict=True)
        for patient, split in pairs:
            known.setdefault(patient, split)
    divided = dict(manifests)
    # Sites with a test split of their own come first: the others follow them.
    for name, manifest in sorted(drawn.items(), key=lambda item: item[1].division.test is not None):
        free = _free(manifest)
        own = {patient: strata[patient] for patient in manifest.patients[free].tolist()}
        division = manifest.division
        sides = _deal(own, known, seed, division.val, division.test or 0.0)
        splits = manifest.splits.copy()
        splits[free] = [sides[patient] for patient in manifest.patients[free].tolist()]
        known = sides | known
        divided[name] = replace(manifest, splits=splits)
    return divided


def _free(manifest: Manifest) -> NDArray[np.bool_]:
    """Return where a split is drawn, not given."""
    division = manifest.division
    if division.by == "stratified" and division.test is None:
        return manifest.splits != "test"  # type: ignore[no-any-return]
    return np.full(len(manifest), division.by == "stratified")


def _deal(
    strata: Strata, known: Mapping[str, str], seed: int, val: float, test: float
) -> dict[str, str]:
    """Give each patient a side; the patients in `known` have theirs, if it is possible here."""
    possible = {"train", "val", "test"} if test else {"train", "val"}
    sides = {p: known[p] for p in strata if known.get(p) in possible}
    left = sorted(strata.keys() - sides.keys(), key=lambda p: (strata[p], position(seed, p), p))
    have = Counter(sides.values())
    wanted = counts(len(strata), val, test)
    tested = min(max(wanted["test"] - have["test"], 0), len(left))
    validated = min(max(wanted["val"] - have["val"], 0), len(left) - tested)
    groups = [list(group) for _, group in groupby(left, key=lambda p: strata[p])]
    in_test = _quotas([len(group) for group in groups], tested)
    in_val = _quotas([len(g) - n for g, n in zip(groups, in_test, strict=True)], validated)
    for group, n_val, n_test in zip(groups, in_val, in_test, strict=True):
        # The smallest hashes validate, as in `split_patients`: the two ways mostly agree.
        for place, patient in enumerate(group):
            later = "test" if place < n_val + n_test else "train"
            sides[patient] = "val" if place < n_val else later
    return sides


def counts(patients: int, val: float, test: float) -> dict[str, int]:
    """Return the number of patients of val and test. Three patients or more fill each split.

    Examples
    --------
    >>> counts(77, 0.2, 0.2), counts(3, 0.2, 0.2)
    ({'test': 15, 'val': 15}, {'test': 1, 'val': 1})
    """
    least = 1 if patients >= 3 else 0
    tested = max(int(test * patients + 0.5), least) if test else 0
    validated = max(int(val * patients + 0.5), least) if val else 0
    return {"test": tested, "val": min(validated, max(patients - tested - 1, 0))}


def _quotas(sizes: list[int], total: int) -> list[int]:
    """Divide `total` over groups in proportion to their sizes; the sum over groups is exact."""
    ends = np.cumsum([0, *sizes])
    everyone = max(int(ends[-1]), 1)
    # Rounding the running sum keeps each group, and each run of groups, within one of its share.
    reached = (2 * ends * total + everyone) // (2 * everyone)
    return np.diff(reached).tolist()  # type: ignore[no-any-return]


def _strata(sites: Sites, manifests: Manifests) -> Strata:
    found: dict[str, set[str]] = {}
    for name, manifest in manifests.items():
        levels = [
            _levels(manifest.targets[task], entry.space.discrete)
            for task, entry in sites[name].tasks.items()
        ]
        for patient, *of_image in zip(manifest.patients.tolist(), *levels, strict=True):
            found.setdefault(patient, set()).add(" ".join([name, *of_image]))
    return {patient: tuple(sorted(strata)) for patient, strata in found.items()}


def _levels(targets: NDArray[np.float32], has_labels: bool) -> list[str]:
    """Return the rarest label of each image, or the quarter of its mean; ``-`` without a label."""
    labelled = np.isfinite(targets)
    if has_labels:
        counted = np.full(targets.shape, np.inf)
        for column, present in enumerate(labelled.T):
            _, label, n = np.unique(
                targets[present, column], return_inverse=True, return_counts=True
            )
            counted[present, column] = n[label]
        rarest = counted.argmin(axis=1)
        values = targets[np.arange(len(targets)), rarest]
        texts = [f"{column}={value:g}" for column, value in zip(rarest, values, strict=True)]
    else:
        of_image = labelled.sum(axis=1)
        means = np.where(labelled, targets, 0).sum(axis=1) / np.maximum(of_image, 1)
        present = of_image > 0
        edges = np.quantile(means[present], QUARTERS) if present.any() else np.empty(0)
        texts = [f"{quarter}" for quarter in np.digitize(means, np.unique(edges))]
    some = np.atleast_1d(labelled.any(axis=1))
    return [text if any_ else "-" for text, any_ in zip(texts, some, strict=True)]
