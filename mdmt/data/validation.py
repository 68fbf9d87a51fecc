"""Everything that can be found wrong with a dataset before it is trained on."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from mdmt.config.site import SiteConfig
from mdmt.data.images import read_mask, read_radiograph
from mdmt.data.manifest import SPLITS, Manifest, Split
from mdmt.data.readers import inspect_manifest
from mdmt.data.table import label_columns
from mdmt.data.tabular import Issue, Severity
from mdmt.errors import DataError, ImageError

__all__ = ["Issue", "ValidationReport", "validate_dataset"]

SMALL_SIDE = 64
"""Pixels; a shorter side is likely a thumbnail."""
LONG_ASPECT = 2.5
"""Sides further apart than this are likely a strip or a film with several pictures."""


@dataclass(frozen=True)
class ValidationReport:
    """What a site's owner should know before training."""

    site: str
    issues: tuple[Issue, ...]
    images: dict[Split, int] = field(default_factory=dict)
    """Usable images."""
    patients: dict[Split, int] = field(default_factory=dict)
    labels: dict[str, dict[Split, dict[str, dict[str, int]]]] = field(default_factory=dict)
    """Labelled samples by task, split, table column and label."""

    @property
    def errors(self) -> tuple[Issue, ...]:
        """The issues that make training wrong."""
        return tuple(issue for issue in self.issues if issue.severity == "error")


def validate_dataset(
    site: SiteConfig, seed: int, *, progress: Callable[[int, int], None] | None = None
) -> ValidationReport:
    """Read a site's table and every image and mask, and list all that is wrong.

    Parameters
    ----------
    site : SiteConfig
        `workers` images are read at a time. With ``on_bad_image: skip``, an image that cannot be
        used is a warning and is not counted.
    seed : int
        The federation's, for the splits that are not in the table.
    progress : callable, optional
        Called with (done, total) images.
    """
    try:
        manifest, issues = inspect_manifest(site, seed)
    except DataError as error:
        return ValidationReport(site.name, (Issue("error", f"site {site.name}", str(error)),))
    checks = list(_check_images(manifest, site, progress))
    issues += [issue for check in checks for issue in check.issues]
    usable = manifest.select(np.flatnonzero([check.usable for check in checks]))
    issues += _duplicate_files(usable, [check.digest for check in checks if check.usable])
    labels = _count_labels(usable, site)
    if len(manifest):
        issues += _labels_to_train_on(usable, site, labels)
        issues += _empty_splits(usable, site)
    rows = {split: usable.indices(split) for split in SPLITS}
    return ValidationReport(
        site=site.name,
        issues=tuple(issues),
        images={split: len(indices) for split, indices in rows.items()},
        patients={split: len(set(usable.patients[i].tolist())) for split, i in rows.items()},
        labels=labels,
    )


@dataclass(frozen=True)
class _Check:
    usable: bool
    digest: str
    issues: list[Issue]


def _check_images(
    manifest: Manifest, site: SiteConfig, progress: Callable[[int, int], None] | None
) -> Iterator[_Check]:
    """Check every image, in the manifest's order."""
    skip = site.dataset.on_bad_image == "skip"

    def check(index: int) -> _Check:
        where, image, mask = manifest.rows[index], manifest.images[index], manifest.masks[index]
        try:
            height, width = read_radiograph(image).shape
            if mask is not None:
                read_mask(mask)
            digest = hashlib.sha256(image.read_bytes()).hexdigest()
        except (ImageError, OSError) as error:
            severity: Severity = "warning" if skip else "error"
            return _Check(False, "", [Issue(severity, where, str(error))])
        return _Check(True, digest, _implausible_size(where, image, width, height))

    with ThreadPoolExecutor(max(1, site.workers)) as pool:
        for done, result in enumerate(pool.map(check, range(len(manifest))), start=1):
            if progress:
                progress(done, len(manifest))
            yield result


def _implausible_size(where: str, image: Path, width: int, height: int) -> list[Issue]:
    message = f"{image}: {width} x {height} pixels: is this a whole radiograph?"
    short, long = sorted((width, height))
    implausible = short < SMALL_SIDE or long > LONG_ASPECT * short
    return [Issue("warning", where, message)] if implausible else []


def _duplicate_files(manifest: Manifest, digests: list[str]) -> list[Issue]:
    """Equal bytes under two names: a leak if it crosses splits, a repeated sample if not."""
    first: dict[str, int] = {}
    issues = []
    for index, digest in enumerate(digests):
        other = first.setdefault(digest, index)
        if other == index:
            continue
        here, there = manifest.splits[index], manifest.splits[other]
        message = f"the same file as {manifest.rows[other]}"
        if here != there:
            message += f", but that is {there} and this is {here}: keep one of them"
        severity: Severity = "warning" if here == there else "error"
        issues.append(Issue(severity, manifest.rows[index], message))
    return issues


def _count_labels(
    manifest: Manifest, site: SiteConfig
) -> dict[str, dict[Split, dict[str, dict[str, int]]]]:
    counts: dict[str, dict[Split, dict[str, dict[str, int]]]] = {}
    for task, entry in site.tasks.items():
        columns = dict(zip(entry.space.columns, label_columns(task, entry), strict=True))
        counts[task] = {}
        for split in SPLITS:
            histogram = entry.space.histogram(manifest.targets[task][manifest.indices(split)])
            counts[task][split] = {columns[own]: by_label for own, by_label in histogram.items()}
    return counts


def _labels_to_train_on(
    manifest: Manifest,
    site: SiteConfig,
    labels: dict[str, dict[Split, dict[str, dict[str, int]]]],
) -> Iterator[Issue]:
    if not any(manifest.labelled(task, "train") for task in site.tasks):
        message = "no labelled image in the train split: there is nothing to learn from"
        yield Issue("error", f"site {site.name}", message)
        return
    for task, entry in site.tasks.items():
        if not manifest.labelled(task, "train"):
            message = "no labelled image in the train split: its head will not learn here"
            yield Issue("warning", f"task {task}", message)
        elif entry.space.kind != "regression":  # whose histogram has bins, not classes
            for column, counts in labels[task]["train"].items():
                absent = [label for label, count in counts.items() if count == 0]
                if absent:
                    message = f"column {column}: no {', '.join(absent)} in the train split"
                    yield Issue("warning", f"task {task}", message)


def _empty_splits(manifest: Manifest, site: SiteConfig) -> Iterator[Issue]:
    for split in ("val", "test"):
        if split not in manifest.splits:
            yield Issue("warning", f"site {site.name}", f"no image in the {split} split")
