"""What a site can delete: caches that no approved recipe needs, and what earlier runs left.

The audit log, the recipes, the budget and the ledger of privacy are never deleted: they limit what
may leave. The newest run of each federation stays, because it may be resumed, and because its heads
belong to the released model.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from client.deployment.recipes import open_recipes
from mdmt.config import SiteConfig, parse_recipe
from mdmt.data.cache import cache_key
from mdmt.data.readers import read_manifest
from mdmt.registry import permit_plugins

_RUN = re.compile(r"[0-9a-f]{12}")


class Leftover(NamedTuple):
    """A file or folder that the site does not need any more."""

    what: str
    path: Path
    bytes: int


def leftovers(site: SiteConfig) -> list[Leftover]:
    """List what can be deleted while the site does not run.

    Parameters
    ----------
    site : SiteConfig

    Raises
    ------
    DataError
        The table cannot be read, so nobody knows which caches are needed.
    """
    return [*_caches(site), *_runs(site.state_root), *_replies(site.state_root)]


def delete(items: Iterable[Leftover]) -> None:
    """Delete files and folders.

    Raises
    ------
    OSError
    """
    for item in items:
        if item.path.is_dir():
            shutil.rmtree(item.path)
        else:
            item.path.unlink(missing_ok=True)


def _caches(site: SiteConfig) -> Iterator[Leftover]:
    """Yield caches in a folder of the site's own. The default folder is shared with other sites."""
    files = [] if site.cache_dir is None else sorted(site.cache_dir.glob("*.pixels"))
    needed = _needed_caches(site) if files else None
    if needed is not None:
        for file in files:
            if file.stem not in needed:
                yield Leftover("cache that no approved recipe needs", file, _size(file))


def _needed_caches(site: SiteConfig) -> set[str] | None:
    """Return the keys of the caches of approved recipes; None if a recipe is not stored."""
    texts = [open_recipes(site).read(sha256) for sha256 in site.policy.recipes or ()]
    needed: set[str] = set()
    manifest = read_manifest(site.model_copy(update={"tasks": site.offered}), 0)
    for text in texts:
        if text is None:
            return None
        with permit_plugins(site.policy.plugins or ()):
            recipe = parse_recipe(text)
        needed.add(cache_key(manifest, recipe.preprocessing, recipe.model.image_size))
    return needed


def _runs(state: Path) -> Iterator[Leftover]:
    """Yield the memory of all runs but the newest of each federation."""
    for federation in sorted(state.glob("*")):
        found = [run for run in federation.glob("*") if _RUN.fullmatch(run.name) and run.is_dir()]
        runs = sorted((run for run in found if not run.is_symlink()), key=_last_change)
        for run in runs[:-1]:
            what = f"memory of the earlier run {run.name} of {federation.name}"
            yield Leftover(what, run, _size(run))


def _replies(state: Path) -> Iterator[Leftover]:
    """Yield stored replies. A server that asks again makes the site train again."""
    for file in sorted((state / "replies").glob("*.reply")):
        yield Leftover("stored reply", file, _size(file))


def _size(path: Path) -> int:
    files = path.rglob("*") if path.is_dir() else [path]
    return sum(file.lstat().st_size for file in files if not file.is_dir())


def _last_change(folder: Path) -> float:
    return max(file.lstat().st_mtime for file in (folder, *folder.rglob("*")))
