"""The check of a site's dataset: `mdmt validate`, in one line."""

from __future__ import annotations

from collections.abc import Callable

from client.deployment.check.base import Check
from mdmt.config import SiteConfig
from mdmt.errors import DataError

__all__ = ["check_dataset", "check_table"]


def check_table(site: SiteConfig) -> Check:
    """Read the table only."""
    from mdmt.data.readers import read_manifest

    try:
        manifest = read_manifest(site, 0)
    except (DataError, OSError) as error:
        return Check("dataset", "fail", str(error), "correct dataset in site.yaml")
    return Check("dataset", "pass", f"{len(manifest)} images")


def check_dataset(site: SiteConfig, progress: Callable[[int, int], None] | None = None) -> Check:
    """Read the table and every image.

    Splits that the table does not give are drawn with seed 0: the federation's seed is not known
    before registration.
    """
    from mdmt.data.validation import validate_dataset

    remedy = "mdmt validate site.yaml lists all"
    try:
        report = validate_dataset(site, 0, progress=progress)
    except OSError as error:
        found = f"{error.filename}: {error.strerror}"
        return Check("dataset", "fail", found, "correct dataset in site.yaml, or its permissions")
    images, patients = (sum(counts.values()) for counts in (report.images, report.patients))
    usable = f"{images} images of {patients} patients can be used"
    if report.errors:
        first = report.errors[0]
        found = f"errors: {len(report.errors)}, first {first.where}: {first.message}"
        return Check("dataset", "fail", found, remedy)
    if report.issues:
        first = report.issues[0]
        warnings = f"warnings: {len(report.issues)}, first {first.where}: {first.message}"
        return Check("dataset", "warn", f"{usable}; {warnings}", remedy)
    return Check("dataset", "pass", usable)
