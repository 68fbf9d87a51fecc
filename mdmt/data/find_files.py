"""Find the file that a cell of a table names, as people write paths."""

from __future__ import annotations

import difflib
import unicodedata
from collections.abc import Iterator, Sequence
from pathlib import Path


class FileFinder:
    r"""Files below a folder, by the text of a cell.

    An exact path is taken first. Otherwise these differences are accepted, if exactly one file is
    left: ``\`` for ``/``, upper and lower case, composed and decomposed letters (NFC, NFD), a
    missing suffix, and a path that starts at the folder above, at a folder below, or with ``/``.

    Parameters
    ----------
    root : Path
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        self._listed: dict[Path, dict[str, list[str]]] = {}

    def find(self, text: str) -> Path | None:
        """Return the file, or None."""
        exact = self._root / text
        if is_file(exact):
            return exact
        parts = [part for part in text.replace("\\", "/").split("/") if part not in ("", ".")]
        if not parts or ".." in parts:
            return None
        for start, rest in self._starts(parts):
            found = list(self._walk(start, rest))
            if len(found) == 1:
                return found[0]
        return None

    def near(self, text: str) -> str:
        """Return a hint that names the most similar file of the folder; empty if there is none."""
        parts = text.replace("\\", "/").split("/")
        folder = self._root.joinpath(*parts[:-1]) if ".." not in parts else self._root
        names = [name for same in self._children(folder).values() for name in same]
        close = difflib.get_close_matches(parts[-1], names, n=1)
        return f"; did you mean {folder / close[0]}?" if close else ""

    def _starts(self, parts: Sequence[str]) -> Iterator[tuple[Path, Sequence[str]]]:
        """Yield the folders in which a path may start, and the path from there."""
        yield self._root, parts
        root = self._root.resolve()
        if len(parts) > 1 and _key(parts[0]) == _key(root.name):
            yield root, parts[1:]
        below = [self._root / name for same in self._children(self._root).values() for name in same]
        holding = [f for f in below if f.is_dir() and next(self._walk(f, parts), None) is not None]
        if len(holding) == 1:
            yield holding[0], parts

    def _walk(self, folder: Path, parts: Sequence[str]) -> Iterator[Path]:
        """Yield the files below `folder` whose path agrees with `parts`."""
        children = self._children(folder)
        names = children.get(_key(parts[0]), [])
        if len(parts) > 1:
            for name in names:
                yield from self._walk(folder / name, parts[1:])
            return
        if not names:  # without its suffix
            wanted = _key(parts[0])
            names = [n for key, same in children.items() if _stem(key) == wanted for n in same]
        yield from (folder / name for name in names if is_file(folder / name))

    def _children(self, folder: Path) -> dict[str, list[str]]:
        """List a folder once: names by their key."""
        if folder not in self._listed:
            listed: dict[str, list[str]] = {}
            try:
                for child in sorted(folder.iterdir()):
                    listed.setdefault(_key(child.name), []).append(child.name)
            except OSError:  # no folder, or no permission: nothing is found there
                listed = {}
            self._listed[folder] = listed
        return self._listed[folder]


def is_file(path: Path) -> bool:
    """Return True for a file. A text that cannot be a path is none."""
    try:
        return path.is_file()
    except (OSError, ValueError):  # too long, or with a null character
        return False


def _key(name: str) -> str:
    return unicodedata.normalize("NFC", name).casefold()


def _stem(key: str) -> str:
    return key.rpartition(".")[0]
