"""The recipes of a site: a file for each one that was approved or asked for.

A file has the text of a recipe and is named by its SHA-256, so ``sha256sum`` checks it. The audit
log and ``policy.recipes`` name recipes by this hash.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from mdmt.config import SiteConfig
from mdmt.files import write_text

MOST_ASKED = 256
"""Files. A recipe that a server only asks for is not stored if there are so many already."""
LONGEST_ASKED = 2**16
"""Bytes of such a recipe. A federation of ten tasks needs a tenth of it."""


class Change(NamedTuple):
    """A key whose value differs between two recipes; None if a recipe lacks it."""

    key: str
    old: Any
    new: Any


def recipe_hash(text: str) -> str:
    """Return the SHA-256 that identifies a recipe."""
    return hashlib.sha256(text.encode()).hexdigest()


class RecipeStore:
    """The recipes in one folder.

    Parameters
    ----------
    folder : Path
        Created with the first recipe.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def approve(self, text: str) -> None:
        """Store a recipe that a person approved."""
        if self.read(recipe_hash(text)) is None:
            write_text(self._file(recipe_hash(text)), text)

    def note(self, text: str) -> str:
        """Store a recipe that a server asks for, if there is space. Return its SHA-256.

        The space is bounded, because a server can ask for any number of recipes.
        """
        sha256 = recipe_hash(text)
        if len(text) <= LONGEST_ASKED and not self._file(sha256).exists() and not self._full():
            write_text(self._file(sha256), text)
        return sha256

    def read(self, sha256: str) -> str | None:
        """Return the text of a recipe; None if it is not stored, or if the file was changed."""
        try:
            text = self._file(sha256).read_bytes().decode()
        except (FileNotFoundError, UnicodeDecodeError):
            return None
        return text if recipe_hash(text) == sha256 else None

    def _full(self) -> bool:
        return sum(1 for _ in self.folder.glob("*.json")) >= MOST_ASKED

    def _file(self, sha256: str) -> Path:
        return self.folder / f"{sha256}.json"


def open_recipes(site: SiteConfig) -> RecipeStore:
    """Return the recipes in the site's state folder."""
    return RecipeStore(site.state_root / "recipes")


def changes(old: str, new: str) -> list[Change]:
    """Compare two recipes key by key; nested keys are joined with dots."""
    before, after = (dict(_keys(json.loads(text))) for text in (old, new))
    found = (Change(key, before.get(key), after.get(key)) for key in sorted({**before, **after}))
    return [change for change in found if change.old != change.new]


def _keys(value: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, inner in value.items():
        if isinstance(inner, dict) and inner:
            yield from _keys(inner, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", inner
