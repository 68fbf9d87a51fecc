"""The data of a study: images of its sites, divided into folds and checked for leaks."""

import hashlib
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mdmt.config import SiteConfig, Synthetic
from mdmt.data.cohort import Cohort, open_cohort
from mdmt.data.manifest import SPLITS, Manifest
from mdmt.data.splits import absent_classes, write_division
from mdmt.data.stratified import stratify
from mdmt.errors import DataError
from simulation.study.config import StudyConfig
from simulation.study.folds import (
    Fold,
    Manifests,
    Sites,
    centres_of,
    folds_from_files,
    hash_folds,
    k_folds,
    leave_centres_out,
)
from simulation.study.kinds import FoldsConfig, HashFolds, KFold, LeaveCentreOut, SplitFiles

Watch = Callable[[str, int, int], None]


@dataclass(frozen=True)
class StudyData:
    """The sites of a study with the data of one seed.

    Attributes
    ----------
    sites : dict of str to SiteConfig
    cohorts : dict of str to Cohort
        With the splits their datasets come with.
    folds : list of Fold
    digests : dict of str to str
        Fingerprint of each cohort.
    """

    sites: dict[str, SiteConfig]
    cohorts: dict[str, Cohort]
    folds: list[Fold]
    digests: dict[str, str]

    @property
    def manifests(self) -> dict[str, Manifest]:
        """By site."""
        return {name: cohort.manifest for name, cohort in self.cohorts.items()}

    def digest(self, fold: Fold) -> dict[str, str]:
        """By site: a hash of its data in `fold`, of pixels, labels, patients and splits."""
        return {
            name: hashlib.sha256(
                "\n".join(
                    [
                        self.digests[name],
                        *manifest.rows,
                        *manifest.patients.tolist(),
                        *fold.splits[name].tolist(),
                        *map(str, fold.shuffled.get(name, ())),
                        *(f"{key} {v.tolist()}" for key, v in sorted(manifest.columns.items())),
                    ]
                ).encode()
            ).hexdigest()[:16]
            for name, manifest in self.manifests.items()
        }

    def write_folds(self, study: StudyConfig, out: Path, seed: int) -> None:
        """Write the splits of every site in every fold, for the sites to read."""
        for number, fold in enumerate(self.folds):
            for name, manifest in self.manifests.items():
                file = _fold_file(study, out, seed, number, name)
                labels = None
                if study.shuffle is not None and name in fold.shuffled:
                    labels = study.shuffle, fold.shuffled[name]
                write_division(file, fold.apply(name, manifest), labels)

    def describe(self) -> dict[str, Any]:
        """Fingerprints and counts, for ``study.json``."""
        return {
            "sites": {
                name: {"data": self.digests[name], **_count(self.sites[name], manifest)}
                for name, manifest in self.manifests.items()
            },
            "folds": [
                {
                    "fold": fold.name,
                    "sites": {
                        name: {
                            split: _count(self.sites[name], divided.select(divided.indices(split)))
                            for split in SPLITS
                        }
                        for name, manifest in self.manifests.items()
                        for divided in (fold.apply(name, manifest),)
                    },
                }
                for fold in self.folds
            ],
        }


def open_data(study: StudyConfig, seed: int, watch: Watch) -> StudyData:
    """Read every site, fill its image cache, make the folds and check them.

    Parameters
    ----------
    study : StudyConfig
    seed : int
        Of the cells; it is used only if the study redraws its sites.
    watch : callable
        Called with (site, done, total) images.

    Raises
    ------
    BadInput
        A site cannot be read, or a fold leaks or lacks a class.
    """
    sites = {n: _as_drawn(study, site, seed) for n, site in sorted(study.federation.sites.items())}
    cohorts = {
        name: open_cohort(
            site,
            study.federation,
            progress=lambda done, n, name=name: watch(name, done, n),  # type: ignore[misc]
        )
        for name, site in sites.items()
    }
    manifests = {name: cohort.manifest for name, cohort in cohorts.items()}
    folds = make_folds(study.folds, sites, manifests, study.federation.seed)
    check_pictures(folds, cohorts)
    return StudyData(sites, cohorts, folds, {name: c.fingerprint() for name, c in cohorts.items()})


def make_folds(config: FoldsConfig, sites: Sites, manifests: Manifests, seed: int) -> list[Fold]:
    """Divide the sites of a study, and check the folds for leaks.

    Patient ids are taken to be global: the images of one id are on one side at every site.

    Parameters
    ----------
    config : FoldsConfig
    sites : mapping of str to SiteConfig
        Their tasks, and the roots of their datasets.
    manifests : mapping of str to Manifest
        Manifests by site. Their splits are used only for ``kind: own``; those that are drawn are
        stratified over the patients of all sites.
    seed : int

    Raises
    ------
    DataError
        The sites cannot be divided so, or a fold leaks or lacks a class.
    """
    tested = dict.fromkeys(manifests, 1)
    match config:
        case KFold():
            folds = k_folds(sites, manifests, config.k, seed)
        case HashFolds():
            folds = hash_folds(manifests, config.k, config.val_fraction)
        case LeaveCentreOut():
            folds = leave_centres_out(sites, manifests, config.sites, seed)
            tested = {site: len(folds) // len(centres_of(site, manifests)) for site in config.sites}
        case SplitFiles():
            folds = folds_from_files(config, sites, manifests)
            tested = tested if len(folds) > 1 else {}  # one fold is a hold-out
        case _:
            own = stratify(sites, manifests, seed)
            folds, tested = [Fold("own", {name: m.splits for name, m in own.items()})], {}
    check_folds(folds, sites, manifests, tested)
    return folds


def site_in_fold(
    study: StudyConfig, site: SiteConfig, out: Path, seed: int, number: int
) -> SiteConfig:
    """Return the site's configuration that reads fold `number` from `StudyData.write_folds`."""
    file = _fold_file(study, out, seed, number, site.name)
    return _as_drawn(study, site, seed).model_copy(update={"fold": file})


def _fold_file(study: StudyConfig, out: Path, seed: int, number: int, site: str) -> Path:
    of_seed = study.redraw or study.shuffle is not None
    data = f"seed-{seed}" if of_seed else "every-seed"
    return out.resolve() / "folds" / data / f"fold-{number}" / f"{site}.csv"


def _as_drawn(study: StudyConfig, site: SiteConfig, seed: int) -> SiteConfig:
    """Return the site with the data of `seed`; the site itself unless the study redraws data."""
    if not study.redraw:
        return site
    assert isinstance(site.dataset, Synthetic), "StudyConfig refuses to redraw other sites"
    drawn = site.dataset.model_copy(update={"seed": seed, "root": None})
    return site.model_copy(update={"dataset": drawn})


def _count(site: SiteConfig, manifest: Manifest) -> dict[str, Any]:
    return {
        "images": len(manifest),
        "patients": len(np.unique(manifest.patients)),
        "labels": {
            task: entry.space.histogram(manifest.targets[task])
            for task, entry in site.tasks.items()
        },
    }


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
