"""The folds of a study: how the images of all sites are divided, by whole patients."""

import hashlib
import itertools
import math
import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mdmt.config.site import SiteConfig
from mdmt.data.manifest import CENTRE, Manifest
from mdmt.data.split_files import image_id, read_split_files
from mdmt.data.splits import absent_classes, position
from mdmt.errors import DataError
from mdmt.seeds import derive_seed
from simulation.study.kinds import SplitFiles


@dataclass(frozen=True)
class Fold:
    """One way to divide the images of all sites of a study.

    Parameters
    ----------
    name : str
        ``0`` … ``k-1``, or the centre that is left out, or two: ``A-SIEMENS``.
    splits : mapping of str to ndarray of str, (N,)
        By site, in its manifest's order: ``train``, ``val``, ``test``, or ``unused`` for the
        other images of a patient in the test split of this fold.
    shuffled : mapping of str to ndarray of int, (N,)
        By site whose labels are shuffled: the position of the image that an image takes its label
        of the task `StudyConfig.shuffle` from.
    """

    name: str
    splits: Mapping[str, NDArray[np.str_]]
    shuffled: Mapping[str, NDArray[np.intp]] = field(default_factory=dict)

    def apply(self, site: str, manifest: Manifest) -> Manifest:
        """The manifest of `site` divided by this fold; images, and so their cache, are the same."""
        return replace(manifest, splits=self.splits[site])


Manifests = Mapping[str, Manifest]
Sites = Mapping[str, SiteConfig]

PARTS = 5
"""Parts of the patients where centres are left out: one validates, one tests at other sites."""
QUARTERS = (0.25, 0.5, 0.75)
"""Strata of a task without classes: quarters of its images, by the mean of their labels."""


def k_folds(sites: Sites, manifests: Manifests, k: int, seed: int) -> list[Fold]:
    """Deal the patients to k parts, stratified by site, class and centre; each is tested once.

    Part i is the test of fold i, part i + 1 validates, the rest is trained on: 3/1/1 for k = 5, as
    in the paper.

    Parameters
    ----------
    sites : mapping of str to SiteConfig
    manifests : mapping of str to Manifest
    k : int
        At least 3.
    seed : int

    Returns
    -------
    list of Fold, length k

    Raises
    ------
    DataError
        There are fewer patients than parts.
    """
    parts = _deal(sites, manifests, k, seed)
    return [
        Fold(
            str(fold),
            {
                site: np.select([part == fold, part == (fold + 1) % k], ["test", "val"], "train")
                for site, part in parts.items()
            },
        )
        for fold in range(k)
    ]


def hash_folds(manifests: Manifests, k: int, val_fraction: float) -> list[Fold]:
    """Divide the patients by the SHA-256 of their ids; no seed and no label takes part.

    The first 8 bytes modulo k are the fold that tests a patient. In the other folds the next 8
    bytes over 2^64 are compared with `val_fraction`: smaller ones validate.
    """
    digests = {
        site: [hashlib.sha256(patient.encode()).digest() for patient in manifest.patients.tolist()]
        for site, manifest in manifests.items()
    }
    folds = []
    for fold in range(k):
        splits = {}
        for site, found in digests.items():
            tested = np.array([int.from_bytes(d[:8]) % k == fold for d in found], dtype=bool)
            validates = np.array([int.from_bytes(d[8:16]) / 2**64 < val_fraction for d in found])
            splits[site] = np.select([tested, validates], ["test", "val"], "train")
        folds.append(Fold(str(fold), splits))
    return folds


def train_on_part(fold: Fold, sites: Sites, manifests: Manifests, fraction: float) -> Fold:
    """Keep a fraction of the patients of each site that train and validate; others are ``unused``.

    Patients are taken in the order of a hash of their ids: ⌈fraction · n⌉ of them, and more until
    no class is lost. So those of a smaller fraction are among those of a larger one.
    """
    splits = {}
    for name, manifest in manifests.items():
        kept = fold.splits[name].astype("<U6")
        for split in ("train", "val"):
            rows = fold.splits[name] == split
            order = sorted(set(manifest.patients[rows].tolist()), key=lambda p: position(0, p))
            for n in range(math.ceil(fraction * len(order)), len(order) + 1):
                of_part = np.isin(manifest.patients, order[:n])
                kept[rows] = np.where(of_part, split, "unused")[rows]
                divided = replace(manifest, splits=kept)
                tasks = sites[name].tasks.items()
                if not any(absent_classes(divided, task, entry.space) for task, entry in tasks):
                    break
        splits[name] = kept
    return replace(fold, splits=splits)


def leave_centres_out(
    sites: Sites, manifests: Manifests, leave: Sequence[str], seed: int
) -> list[Fold]:
    """Test each centre of a site (LOCO-6), or each pair of centres of two (LOCO-18), in turn.

    At the sites whose centres are not left out, the first of five stratified parts of the patients
    is tested in every fold. Of the patients that a fold does not test, the second part validates.
    Images of a tested patient elsewhere (of another centre, at another site) are ``unused``.

    Parameters
    ----------
    sites : mapping of str to SiteConfig
    manifests : mapping of str to Manifest
    leave : sequence of str
        Sites whose centres are left out.
    seed : int

    Raises
    ------
    DataError
        A site has no centres, or only one.
    """
    parts = _deal(sites, manifests, PARTS, seed)
    folds = []
    for centres in itertools.product(*(centres_of(site, manifests) for site in leave)):
        out = dict(zip(leave, centres, strict=True))
        tested = {
            site: m.columns[CENTRE] == out[site] if site in out else parts[site] == 0
            for site, m in manifests.items()
        }
        patients = np.concatenate([m.patients[tested[site]] for site, m in manifests.items()])
        splits = {
            site: np.select(
                [tested[site], np.isin(m.patients, patients), parts[site] == 1],
                ["test", "unused", "val"],
                "train",
            )
            for site, m in manifests.items()
        }
        folds.append(Fold("-".join(centres), splits))
    return folds


def centres_of(site: str, manifests: Manifests) -> list[str]:
    """Centres of a site, sorted.

    Raises
    ------
    DataError
        There is no such site, an image has no centre, or there is only one centre.
    """
    manifest = manifests.get(site)
    if manifest is None:
        raise DataError(f"folds.sites: no site {site}; the sites are {', '.join(manifests)}")
    if CENTRE not in manifest.columns:
        raise DataError(f"site {site}: no centre to leave out: name its column, dataset.centre")
    column = manifest.columns[CENTRE]
    if "" in column:
        row = manifest.rows[int(np.flatnonzero(column == "")[0])]
        raise DataError(f"site {site}: {row}: no centre, and centres are to be left out")
    centres = sorted(set(column.tolist()))
    if len(centres) < 2:
        raise DataError(f"site {site}: all images are of the centre {centres[0]}: none to train on")
    return centres


def _deal(sites: Sites, manifests: Manifests, k: int, seed: int) -> dict[str, NDArray[np.intp]]:
    """Give every patient of all sites together one of k parts; by site, the part of each image."""
    from sklearn.model_selection import StratifiedGroupKFold

    names = sorted(manifests)
    patients = np.concatenate([manifests[name].patients for name in names])
    strata = np.concatenate([_strata(sites[name], manifests[name], k) for name in names])
    state = derive_seed(seed, "folds", k) % 2**32
    parts = np.empty(len(patients), dtype=np.intp)
    dealer = StratifiedGroupKFold(k, shuffle=True, random_state=state)
    try:
        with warnings.catch_warnings():
            # A stratum of fewer images than parts cannot be in each; `check_folds` sees to classes.
            warnings.filterwarnings("ignore", "The least populated class", UserWarning)
            for part, (_, chosen) in enumerate(dealer.split(patients, strata, patients)):
                parts[chosen] = part
    except ValueError as error:
        raise DataError(f"folds: too few patients for {k} parts: {error}") from error
    ends = np.cumsum([len(manifests[name]) for name in names])
    return dict(zip(names, np.split(parts, ends[:-1]), strict=True))


def _strata(site: SiteConfig, manifest: Manifest, k: int) -> NDArray[np.str_]:
    """Return site, class and centre of each image; without centre if the class is rare in it."""
    levels = [
        _levels(manifest.targets[task], entry.space.exclusive) for task, entry in site.tasks.items()
    ]
    classes = [" ".join([site.name, *of_image]) for of_image in zip(*levels, strict=True)]
    centres = manifest.columns.get(CENTRE, np.full(len(manifest), ""))
    strata = [f"{of_class} @ {centre}" for of_class, centre in zip(classes, centres, strict=True)]
    counts = Counter(strata)
    return np.array([s if counts[s] >= k else c for s, c in zip(strata, classes, strict=True)])


def _levels(targets: NDArray[np.float32], has_classes: bool) -> list[str]:
    """Return the class or the quartile of the mean label of each image; ``-`` without a label."""
    labelled = np.isfinite(targets)
    counts = labelled.sum(axis=1)
    levels = np.where(labelled, targets, 0).sum(axis=1) / np.maximum(counts, 1)
    if not has_classes and counts.any():
        levels = np.digitize(levels, np.unique(np.quantile(levels[counts > 0], QUARTERS)))
    return [f"{level:g}" if n else "-" for level, n in zip(levels, counts.tolist(), strict=True)]


def folds_from_files(config: SplitFiles, sites: Sites, manifests: Manifests) -> list[Fold]:
    """Read the folds ``<folder>/<fold>/`` of every site from split files.

    Raises
    ------
    DataError
        A site has no folder or no folds, the sites have different folds, or an image is in none of
        the files of a fold.
    """
    for site in sorted(manifests.keys() ^ config.folders.keys()):
        problem = "none for" if site in manifests else "no site"
        raise DataError(f"folds.folders: {problem} {site}; each site of the study needs one")
    by_site = {
        site: _read_folds((sites[site].dataset.root or Path()) / folder, manifests[site])
        for site, folder in config.folders.items()
    }
    first, folds = next(iter(by_site.items()))
    for site, others in by_site.items():
        if others.keys() != folds.keys():
            names = f"{', '.join(folds)} at {first} and {', '.join(others)} at {site}"
            raise DataError(f"folds.folders: the sites have different folds, {names}")
    return [Fold(name, {site: by_site[site][name] for site in by_site}) for name in folds]


def _read_folds(folder: Path, manifest: Manifest) -> dict[str, NDArray[np.str_]]:
    """By fold: the split of each image of a site, (N,)."""
    names = sorted(path.parent.name for path in folder.glob("*/train.txt"))
    if not names:
        raise DataError(f"{folder}: no fold there: expected folders with train.txt, val.txt, ...")
    folds = {}
    for name in names:
        found = read_split_files(folder / name)
        ids = [image_id(image.name) for image in manifest.images]
        for row, image in zip(manifest.rows, ids, strict=True):
            if image not in found:
                raise DataError(f"{folder / name}: no split file names the image of {row}")
        folds[name] = np.array([found[image].split for image in ids], dtype=np.str_)
    return folds
