"""Check a dataset before training: its table, its images and masks, its labels and splits."""

import hashlib
from collections.abc import Callable, Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mdmt.config.site import SiteConfig
from mdmt.data.header_checks import header_notices
from mdmt.data.images import read_mask, read_radiograph
from mdmt.data.manifest import SPLITS, Manifest, Split
from mdmt.data.readers import inspect_manifest
from mdmt.data.table import label_columns
from mdmt.data.tabular import Issue
from mdmt.errors import DataError, ImageError

SMALL_SIDE = 64
"""Pixels. An image with a shorter side is probably a thumbnail."""
LONG_ASPECT = 2.5
"""An image with a larger ratio of sides is probably a strip, or a film with several pictures."""

LabelCounts = dict[str, dict[Split, dict[str, dict[str, int]]]]


@dataclass(frozen=True)
class ValidationReport:
    """The counts of a site's dataset and its validation issues."""

    site: str
    issues: tuple[Issue, ...]
    images: dict[Split, int] = field(default_factory=dict)
    """Usable images."""
    patients: dict[Split, int] = field(default_factory=dict)
    """Patients of the usable images."""
    account: str = ""
    """See `Manifest.account`."""
    division: str = ""
    """How the splits were chosen."""
    labels: LabelCounts = field(default_factory=dict)
    """Labelled samples by task, split, table column and label."""

    @property
    def errors(self) -> tuple[Issue, ...]:
        """The issues that would make training wrong."""
        return tuple(issue for issue in self.issues if issue.severity == "error")


def validate_dataset(
    site: SiteConfig,
    seed: int,
    *,
    progress: Callable[[int, int], None] | None = None,
    splits: NDArray[np.str_] | None = None,
) -> ValidationReport:
    """Read the table, every image and every mask of a site, and collect all issues.

    Parameters
    ----------
    site : SiteConfig
        `workers` threads read images. With ``on_bad_image: skip``, an unusable image is a warning
        and is not counted.
    seed : int
        Seed of the federation. It decides the splits if the table does not.
    progress : callable, optional
        Called with (done, total) images.
    splits : ndarray of str, optional
        Splits of the usable rows that replace those of the site, as in a simulation.
    """
    try:
        manifest, issues = inspect_manifest(site, seed)
    except DataError as error:
        return ValidationReport(site.name, (Issue("error", f"site {site.name}", str(error)),))
    if splits is not None:
        manifest = replace(manifest, splits=splits)
    checks = list(_check_images(manifest, site, progress))
    issues += [issue for _, found in checks for issue in found]
    usable = manifest.select(np.flatnonzero([digest is not None for digest, _ in checks]))
    issues += _duplicate_files(usable, [digest for digest, _ in checks if digest is not None])
    labels = _count_labels(usable, site)
    if len(manifest):
        issues += _missing_labels(usable, site, labels)
        issues += _one_class(site, labels, usable.splits.tolist())
        issues += [
            Issue("warning", f"site {site.name}", f"no image in the {split} split")
            for split in ("val", "test")
            if split not in usable.splits
        ]
    rows = {split: usable.indices(split) for split in SPLITS}
    return ValidationReport(
        site=site.name,
        issues=tuple(issues),
        images={split: len(indices) for split, indices in rows.items()},
        patients={split: len(set(usable.patients[i].tolist())) for split, i in rows.items()},
        account=manifest.account,
        division=str(manifest.division),
        labels=labels,
    )


def _check_images(
    manifest: Manifest, site: SiteConfig, progress: Callable[[int, int], None] | None
) -> Iterator[tuple[bytes | None, list[Issue]]]:
    """Yield the SHA-256 (None if unusable) and the issues of each image, in order."""

    def check(where: str, image: Path, mask: Path | None) -> tuple[bytes | None, list[Issue]]:
        try:
            height, width = read_radiograph(image).shape
            if mask is not None:
                read_mask(mask)
            digest = hashlib.sha256(image.read_bytes()).digest()
            unusual = header_notices(image)
        except (ImageError, OSError) as error:
            skip = site.dataset.on_bad_image == "skip"
            return None, [Issue("warning" if skip else "error", where, str(error))]
        if min(width, height) < SMALL_SIDE or max(width, height) > LONG_ASPECT * min(width, height):
            unusual.append(f"{width} x {height} pixels: is this a whole radiograph?")
        return digest, [Issue("warning", where, f"{image}: {message}") for message in unusual]

    with ThreadPoolExecutor(max(1, site.workers)) as pool:
        results = pool.map(check, manifest.rows, manifest.images, manifest.masks)
        for done, result in enumerate(results, start=1):
            if progress:
                progress(done, len(manifest))
            yield result


def _duplicate_files(manifest: Manifest, digests: list[bytes]) -> Iterator[Issue]:
    """Find equal files: in two splits they are a leak, in one split a repeated sample."""
    first: dict[bytes, int] = {}
    for index, digest in enumerate(digests):
        other = first.setdefault(digest, index)
        here, there = manifest.splits[index], manifest.splits[other]
        message = f"the same file as {manifest.rows[other]}"
        if here != there:
            message += f", but that is {there} and this is {here}: keep one of them"
        if other != index:
            leak = here != there
            yield Issue("error" if leak else "warning", manifest.rows[index], message)


def _count_labels(manifest: Manifest, site: SiteConfig) -> LabelCounts:
    counts: LabelCounts = {}
    for task, entry in site.tasks.items():
        columns = label_columns(task, entry)
        if entry.separator is not None:
            columns = tuple(column or task for column in entry.space.columns)
        counts[task] = {}
        for split in SPLITS:
            histogram = entry.space.histogram(manifest.targets[task][manifest.indices(split)])
            counts[task][split] = dict(zip(columns, histogram.values(), strict=True))
    return counts


def _missing_labels(manifest: Manifest, site: SiteConfig, labels: LabelCounts) -> Iterator[Issue]:
    """Find tasks and classes without a label in the training split."""
    unlabelled = [task for task in site.tasks if not manifest.labelled(task, "train")]
    if len(unlabelled) == len(site.tasks):
        message = "no labelled image in the train split: the site cannot train"
        yield Issue("error", f"site {site.name}", message)
        return
    for task, entry in site.tasks.items():
        if task in unlabelled:
            message = "no labelled image in the train split: its head cannot be trained here"
            yield Issue("warning", f"task {task}", message)
        elif entry.space.discrete:
            for column, counts in labels[task]["train"].items():
                absent = [label for label, count in counts.items() if count == 0]
                if absent:
                    message = f"column {column}: no {', '.join(absent)} in the train split"
                    yield Issue("warning", f"task {task}", message)


def _one_class(site: SiteConfig, labels: LabelCounts, splits: Collection[str]) -> Iterator[Issue]:
    """Find validation and test splits without a label, without a class, or with one class only."""
    for task, entry in site.tasks.items():
        for split, columns in labels[task].items():
            if split == "train" or split not in splits:
                continue
            if not any(n for counts in columns.values() for n in counts.values()):
                yield Issue("warning", f"task {task}", f"no labelled image in the {split} split")
                continue
            absent = {c: [v for v, n in counts.items() if not n] for c, counts in columns.items()}
            lacking = [
                f"{column}: no {', '.join(values)}"
                for column, values in absent.items()
                if values and (entry.space.exclusive or len(columns[column]) - len(values) == 1)
            ]
            if lacking:
                message = f"the {split} split has too few classes to compare them"
                yield Issue("warning", f"task {task}", f"{message}: {'; '.join(lacking)}")
