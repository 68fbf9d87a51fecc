"""Where the updates of a round wait for the last one: in memory as far as there is room."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryFile
from typing import IO

__all__ = ["Shelf"]

_ROOM = 100_000_000
"""Bytes kept in memory: two exact updates of a resnet18, whatever the number of sites."""


class Shelf:
    """Blobs by name, taken in any order, each once.

    Parameters
    ----------
    folder : Path or None
        Where the file lies that takes what memory has no room for. It has no name, so that nothing
        is left of it whatever happens; made when first needed, in the system's own folder if None.
    room : int
        Bytes to keep in memory.
    """

    def __init__(self, folder: Path | None, room: int = _ROOM) -> None:
        self._folder, self._room = folder, room
        self._blobs: dict[str, bytes] = {}
        self._places: dict[str, tuple[int, int]] = {}
        self._file: IO[bytes] | None = None

    def put(self, name: str, blob: bytes) -> None:
        """Keep a blob."""
        if len(blob) <= self._room:
            self._room -= len(blob)
            self._blobs[name] = blob
            return
        if self._file is None:
            self._file = TemporaryFile(dir=self._folder)  # noqa: SIM115 (lives as long as this)
        self._places[name] = self._file.seek(0, 2), len(blob)
        self._file.write(blob)

    def take(self, name: str) -> bytes:
        """Give a blob back and forget it."""
        if name in self._blobs:
            blob = self._blobs.pop(name)
            self._room += len(blob)
            return blob
        start, size = self._places.pop(name)
        assert self._file is not None, "it has a place in the file"
        self._file.seek(start)
        return self._file.read(size)
