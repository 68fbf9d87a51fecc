"""From a site's configuration to its manifest."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pkgutil import resolve_name

from mdmt.config.site import SiteConfig
from mdmt.data.manifest import SPLITS, Manifest
from mdmt.data.site_folds import divide
from mdmt.data.tabular import Issue
from mdmt.errors import DataError

__all__ = ["Reader", "inspect_manifest", "read_manifest"]

Reader = Callable[[SiteConfig, int], tuple[Manifest, list[Issue]]]
"""Takes a site and the federation's seed; gives what can be used, and what cannot.

`mdmt.config.datasets` names the reader of each kind of dataset.
"""

_log = logging.getLogger(__name__)


def read_manifest(site: SiteConfig, seed: int) -> Manifest:
    """Read a site's dataset, or refuse it.

    Parameters
    ----------
    site : SiteConfig
    seed : int
        The federation's; splits patients where the dataset does not.

    Raises
    ------
    DataError
        The first thing wrong with the dataset, and how many more there are.
    """
    manifest, issues = inspect_manifest(site, seed)
    if site.fold is not None:
        manifest = divide(manifest, site.fold)
    errors = [issue for issue in issues if issue.severity == "error"]
    if errors:
        more = f" [and {len(errors) - 1} more: mdmt validate lists them]" if errors[1:] else ""
        raise DataError(f"site {site.name}: {errors[0]}{more}")
    if issues:
        _log.warning("%s: %d warnings, the first: %s", site.name, len(issues), issues[0])
    for split in SPLITS:
        if split not in manifest.splits:
            _log.warning("%s: no image in the %s split", site.name, split)
    return manifest


def inspect_manifest(site: SiteConfig, seed: int) -> tuple[Manifest, list[Issue]]:
    """Read what can be used of a site's dataset and say what cannot.

    Raises
    ------
    DataError
        Nothing can be read: no table, or columns missing.
    """
    read: Reader = resolve_name(site.dataset.reader)
    return read(site, seed)
