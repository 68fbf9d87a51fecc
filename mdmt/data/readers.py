"""Read the dataset of a site as a manifest."""

import logging
from collections.abc import Callable
from pkgutil import resolve_name

from mdmt.config.site import SiteConfig
from mdmt.data.manifest import SPLITS, Manifest
from mdmt.data.splits import divide
from mdmt.data.table_checks import ALL_USED
from mdmt.data.tabular import Issue
from mdmt.errors import DataError

Reader = Callable[[SiteConfig, int], tuple[Manifest, list[Issue]]]
"""Takes a site and the seed of the federation; returns the usable images and all issues.

`mdmt.config.datasets` names the reader of each kind of dataset.
"""

_log = logging.getLogger(__name__)


def read_manifest(site: SiteConfig, seed: int) -> Manifest:
    """Read the dataset of a site. Refuse it if it has an error.

    Parameters
    ----------
    site : SiteConfig
    seed : int
        Seed of the federation. It decides the splits if the dataset does not.

    Raises
    ------
    DataError
        The dataset has errors. The message has the first one and the number of the others.
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
    if manifest.account:
        complete = manifest.account.endswith(ALL_USED)
        _log.log(
            logging.INFO if complete else logging.WARNING, "%s: %s", site.name, manifest.account
        )
    for split in SPLITS:
        if split not in manifest.splits:
            _log.warning("%s: no image in the %s split", site.name, split)
    return manifest


def inspect_manifest(site: SiteConfig, seed: int) -> tuple[Manifest, list[Issue]]:
    """Read the usable images of a site's dataset, and collect all issues.

    Raises
    ------
    DataError
        The table cannot be read, or columns are missing.
    """
    read: Reader = resolve_name(site.dataset.reader)
    return read(site, seed)
