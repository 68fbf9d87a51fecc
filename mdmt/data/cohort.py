"""The images and labels of a site, ready for training."""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mdmt.config import FederationConfig, SiteConfig
from mdmt.data.cache import default_cache_dir, open_pixels
from mdmt.data.manifest import Manifest
from mdmt.data.readers import read_manifest


@dataclass(frozen=True)
class Cohort:
    """A manifest and its preprocessed radiographs.

    Parameters
    ----------
    manifest : Manifest
        N images.
    pixels : ndarray, uint8, (N, S, S)
        Read-only, usually mapped from the cache.
    origins : ndarray of int, (N,), optional
        Index of the cohort that each image comes from, after `pool`; None for one site.
    """

    manifest: Manifest
    pixels: NDArray[np.uint8]
    origins: NDArray[np.intp] | None = None

    def training_indices(self, tasks: Sequence[str]) -> NDArray[np.intp]:
        """Training images with at least one label of `tasks`."""
        train = self.manifest.indices("train")
        labelled = [np.isfinite(self.manifest.targets[task][train]).any(axis=1) for task in tasks]
        return train[np.logical_or.reduce(labelled)]

    def strata(self, indices: NDArray[np.intp]) -> list[tuple[NDArray[np.intp], int]]:
        """Group `indices` by the tasks of their cohort: (indices, number of cohorts)."""
        if self.origins is None:
            return [(indices, 1)]
        by_tasks: dict[tuple[str, ...], list[NDArray[np.intp]]] = {}
        for origin in np.unique(self.origins[indices]):
            own = indices[self.origins[indices] == origin]
            targets = sorted(self.manifest.targets.items())
            tasks = tuple(task for task, values in targets if np.isfinite(values[own]).any())
            by_tasks.setdefault(tasks, []).append(own)
        return [(np.concatenate(parts), len(parts)) for _, parts in sorted(by_tasks.items())]

    def fingerprint(self) -> str:
        """Return the first 16 hex digits of the SHA-256 of pixels, splits and targets.

        Two runs with equal fingerprints used the same data. Images cannot be computed from a
        fingerprint.
        """
        digest = hashlib.sha256(np.ascontiguousarray(self.pixels).data)
        digest.update("".join(self.manifest.splits.tolist()).encode())
        for task, targets in sorted(self.manifest.targets.items()):
            digest.update(task.encode() + np.ascontiguousarray(targets).tobytes())
        return digest.hexdigest()[:16]


def open_cohort(
    site: SiteConfig,
    federation: FederationConfig,
    *,
    progress: Callable[[int, int], None] | None = None,
) -> Cohort:
    """Read the manifest of a site and open its image cache. Build the cache if there is none.

    Parameters
    ----------
    site : SiteConfig
    federation : FederationConfig
        Provides the seed, the preprocessing and the image size.
    progress : callable, optional
        Called with (done, total) images while the cache is built.

    Raises
    ------
    DataError
        The table, a label or an image is unusable.
    PolicyError
        The cache would be larger than `policy.max_cache`.
    """
    manifest = read_manifest(site, federation.seed)
    pixels, kept = open_pixels(
        manifest,
        federation.preprocessing,
        federation.model.image_size,
        cache_dir=site.cache_dir or default_cache_dir(),
        workers=site.workers,
        on_bad_image=site.dataset.on_bad_image,
        progress=progress,
        max_gigabytes=site.policy.max_cache,
    )
    return Cohort(manifest if len(kept) == len(manifest) else manifest.select(kept), pixels)


def pool(cohorts: Sequence[Cohort]) -> Cohort:
    """Join the cohorts of several sites.

    A task that a cohort does not have gets missing labels there. A column that it does not have
    gets empty text.
    """
    manifests = [cohort.manifest for cohort in cohorts]
    widths = {task: v.shape[1] for manifest in manifests for task, v in manifest.targets.items()}

    names = sorted({name for manifest in manifests for name in manifest.columns})

    def targets(task: str) -> NDArray[np.float32]:
        missing = [np.full((len(m), widths[task]), np.nan, np.float32) for m in manifests]
        pairs = zip(manifests, missing, strict=True)
        return np.concatenate([m.targets.get(task, absent) for m, absent in pairs])

    def texts(name: str) -> NDArray[np.str_]:
        return np.concatenate([m.columns.get(name, np.full(len(m), "")) for m in manifests])

    manifest = Manifest(
        images=tuple(image for m in manifests for image in m.images),
        rows=tuple(row for m in manifests for row in m.rows),
        patients=np.concatenate([m.patients for m in manifests]),
        splits=np.concatenate([m.splits for m in manifests]),
        targets={task: targets(task) for task in widths},
        masks=tuple(mask for m in manifests for mask in m.masks),
        columns={name: texts(name) for name in names},
    )
    origins = np.repeat(np.arange(len(cohorts)), [len(m) for m in manifests])
    return Cohort(manifest, np.concatenate([cohort.pixels for cohort in cohorts]), origins)
