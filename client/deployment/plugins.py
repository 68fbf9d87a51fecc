"""The installed packages whose code a recipe uses."""

from __future__ import annotations

import hashlib
from importlib.metadata import Distribution, entry_points
from pathlib import Path
from typing import NamedTuple

from mdmt.config import FederationConfig


class Plugin(NamedTuple):
    """An installed package."""

    distribution: str
    version: str
    sha256: str
    """Of the names and contents of its files; empty if the installation does not list them."""


def used_plugins(federation: FederationConfig) -> list[Plugin]:
    """Return the packages that define a task kind, the backbone or the algorithm of a recipe."""
    names = {("mdmt.tasks", task.space.kind) for task in federation.tasks.values()}
    names.add(("mdmt.backbones", federation.model.backbone.partition(".")[0]))
    names.add(("mdmt.algorithms", federation.algorithm.name))
    points = [point for group, name in names for point in entry_points(group=group, name=name)]
    found = {point.dist.name: point.dist for point in points if point.dist is not None}
    return [Plugin(name, dist.version, _content_hash(dist)) for name, dist in sorted(found.items())]


def _content_hash(distribution: Distribution) -> str:
    """Hash the files of a package, without bytecode and without what pip writes about itself."""
    digest, files = hashlib.sha256(), 0
    for file in sorted(distribution.files or ()):
        if file.suffix == ".pyc" or ".dist-info" in str(file):
            continue
        content = hashlib.sha256(Path(file.locate()).read_bytes()).hexdigest()
        digest.update(f"{file.as_posix()} {content}\n".encode())
        files += 1
    return digest.hexdigest() if files else ""
