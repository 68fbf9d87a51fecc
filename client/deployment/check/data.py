"""The check of a site's dataset: `mdmt validate`, in one line."""

from __future__ import annotations

from collections.abc import Callable

from client.deployment.check.base import Failed, Warned, check
from mdmt.config import SiteConfig

__all__ = ["check_dataset", "check_table"]

_ALL = "mdmt validate site.yaml lists all"
_CORRECT = "correct dataset in site.yaml, or its permissions"


@check("dataset", _CORRECT)
def check_table(site: SiteConfig) -> str:
    """Read the table only."""
    from mdmt.data.readers import read_manifest

    return f"{len(read_manifest(site, 0))} images"


@check("dataset", _CORRECT)
def check_dataset(site: SiteConfig, progress: Callable[[int, int], None] | None = None) -> str:
    """Read the table and every image.

    Splits that the table does not give are drawn with seed 0: the federation's seed is not known
    before registration.
    """
    from mdmt.data.validation import validate_dataset

    report = validate_dataset(site, 0, progress=progress)
    images, patients = (sum(counts.values()) for counts in (report.images, report.patients))
    usable = f"{images} images of {patients} patients can be used"
    for kind, found in (("errors", report.errors), ("warnings", report.issues)):
        if found:
            text = f"{kind}: {len(found)}, first {found[0].where}: {found[0].message}"
            if kind == "errors":
                raise Failed(text, _ALL)
            raise Warned(f"{usable}; {text}", _ALL)
    return usable
