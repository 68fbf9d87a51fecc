"""From a site's configuration to its manifest; a new reader is a function, named here."""

from __future__ import annotations

import logging
from collections.abc import Callable

from mdmt.config.site import SiteConfig
from mdmt.data.aiforcovid import read_aiforcovid
from mdmt.data.brixia import read_brixia
from mdmt.data.manifest import SPLITS, Manifest
from mdmt.data.site_folds import divide
from mdmt.data.synthetic import read_synthetic
from mdmt.data.table import read_table
from mdmt.data.tabular import Issue
from mdmt.errors import DataError

__all__ = ["READERS", "inspect_manifest", "read_manifest"]

Reader = Callable[[SiteConfig, int], tuple[Manifest, list[Issue]]]

READERS: dict[str, Reader] = {
    "table": read_table,
    "aiforcovid": read_aiforcovid,
    "brixia": read_brixia,
    "synthetic": read_synthetic,
}

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
    return READERS[site.dataset.kind](site, seed)
