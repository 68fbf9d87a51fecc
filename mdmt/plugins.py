"""The installed packages whose code decides a result: distribution, version and hash."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Iterator
from functools import lru_cache
from importlib.metadata import Distribution, EntryPoint, entry_points
from importlib.util import find_spec
from pathlib import Path

from mdmt.strict import Strict

_NO_CODE = {".pyc", ".pyo"}
"""Suffixes of files that Python makes from others."""


class Plugin(Strict):
    """What is pinned of a package."""

    version: str
    sha256: str
    """Of the names and the contents of its files."""


def installed_plugins(*names: tuple[str, str]) -> dict[str, Plugin]:
    """Return the packages that define these names, by distribution.

    Nothing is imported.

    Parameters
    ----------
    *names : (str, str)
        Group of entry points, such as ``mdmt.tasks``, and name. Built-in names belong to no
        package.
    """
    return dict(_installed(frozenset(names), tuple(sys.path)))


@lru_cache(maxsize=64)
def _installed(names: frozenset[tuple[str, str]], path: tuple[str, ...]) -> dict[str, Plugin]:
    """Look the names up once for each `path`: a federation asks for its recipe often."""
    points = [point for group, name in names for point in entry_points(group=group, name=name)]
    found: dict[str, list[EntryPoint]] = {}
    for point in points:
        if point.dist is not None:
            found.setdefault(point.dist.name, []).append(point)
    return {
        name: Plugin(version=own[0].dist.version, sha256=_code_hash(own[0].dist, own))
        for name, own in sorted(found.items())
        if own[0].dist is not None
    }


def _code_hash(distribution: Distribution, points: list[EntryPoint]) -> str:
    """Hash the files that pip lists, and those of the modules that the entry points name.

    An installation in editable mode lists none of its modules.
    """
    files = {str(file): Path(str(file.locate())) for file in distribution.files or ()}
    for point in points:
        files |= dict(_module_files(point.module.partition(".")[0]))
    digest = hashlib.sha256()
    for name, file in sorted(files.items()):
        if file.suffix not in _NO_CODE and ".dist-info" not in name and file.is_file():
            digest.update(f"{name} {hashlib.sha256(file.read_bytes()).hexdigest()}\n".encode())
    return digest.hexdigest()


def _module_files(name: str) -> Iterator[tuple[str, Path]]:
    """Yield the files of a top-level module or package, named from the folder that it is in."""
    spec = find_spec(name)
    if spec is None or spec.origin is None:
        return
    origin = Path(spec.origin)
    if spec.submodule_search_locations is None:
        yield origin.name, origin
        return
    folder = origin.parent
    for file in folder.rglob("*"):
        yield file.relative_to(folder.parent).as_posix(), file
