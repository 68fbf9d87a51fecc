"""A site's images and labels, ready for training."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mdmt.config import FederationConfig, SiteConfig
from mdmt.data.cache import open_pixels
from mdmt.data.manifest import Manifest
from mdmt.data.readers import read_manifest

__all__ = ["Cohort", "default_cache_dir", "open_cohort", "pool"]


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
        Which of the pooled cohorts each image comes from; None for a site's own.
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
        """Divide `indices` by the tasks of their cohort, each with how many cohorts have those."""
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
        """First 16 hex digits of the SHA-256 of pixels, splits and targets: equal data, equal text.

        Tells later whether two runs saw the same data; nothing about an image can be told from it.
        """
        digest = hashlib.sha256(np.ascontiguousarray(self.pixels).data)
        digest.update("".join(self.manifest.splits.tolist()).encode())
        for task, targets in sorted(self.manifest.targets.items()):
            digest.update(task.encode() + np.ascontiguousarray(targets).tobytes())
        return digest.hexdigest()[:16]


def default_cache_dir() -> Path:
    """Where preprocessed images go unless a site says otherwise."""
    return Path("~/.cache/mdmt").expanduser()


def open_cohort(
    site: SiteConfig,
    federation: FederationConfig,
    *,
    progress: Callable[[int, int], None] | None = None,
) -> Cohort:
    """Read a site's manifest and open, or first fill, its image cache.

    Parameters
    ----------
    site : SiteConfig
    federation : FederationConfig
        Its seed, preprocessing and image size are used.
    progress : callable, optional
        Called with (done, total) images while the cache is filled.

    Raises
    ------
    DataError
        The table, a label or an image cannot be used.
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
    )
    return Cohort(manifest if len(kept) == len(manifest) else manifest.select(kept), pixels)


def pool(cohorts: Sequence[Cohort]) -> Cohort:
    """Join cohorts into one, as if their sites had pooled their data.

    Tasks a cohort does not have are missing labels there, and its columns are empty text.
    """
    manifests = [cohort.manifest for cohort in cohorts]
    widths = {task: v.shape[1] for manifest in manifests for task, v in manifest.targets.items()}

    def column(manifest: Manifest, task: str) -> NDArray[np.float32]:
        missing = np.full((len(manifest), widths[task]), np.nan, np.float32)
        return manifest.targets.get(task, missing)

    def text(manifest: Manifest, name: str) -> NDArray[np.str_]:
        return manifest.columns.get(name, np.full(len(manifest), ""))

    manifest = Manifest(
        images=tuple(image for m in manifests for image in m.images),
        rows=tuple(row for m in manifests for row in m.rows),
        patients=np.concatenate([m.patients for m in manifests]),
        splits=np.concatenate([m.splits for m in manifests]),
        targets={task: np.concatenate([column(m, task) for m in manifests]) for task in widths},
        masks=tuple(mask for m in manifests for mask in m.masks),
        columns={
            name: np.concatenate([text(m, name) for m in manifests])
            for name in sorted({name for m in manifests for name in m.columns})
        },
    )
    origins = np.repeat(np.arange(len(cohorts)), [len(m) for m in manifests])
    return Cohort(manifest, np.concatenate([cohort.pixels for cohort in cohorts]), origins)
