"""The update buffer: it keeps the updates of a round until the last one has arrived."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryFile
from typing import IO, Self

from mdmt.files import naming_full_disk

_ROOM = 100_000_000
"""Bytes in memory: two exact updates of a resnet18, for any number of sites."""


class UpdateBuffer:
    """Blobs by name. They are read in any order, each one once.

    Parameters
    ----------
    folder : Path
        Folder of the file for blobs that do not fit into memory. The file has no name, so that it
        disappears if the process dies. It is created when it is first needed.
    room : int
        Largest number of bytes in memory.
    """

    def __init__(self, folder: Path, room: int = _ROOM) -> None:
        self._folder, self._room = folder, room
        self._blobs: dict[str, bytes] = {}
        self._places: dict[str, tuple[int, int]] = {}
        self._file: IO[bytes] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._blobs.clear()
        if self._file is not None:
            self._file.close()

    def put(self, name: str, blob: bytes) -> None:
        """Store a blob."""
        if len(blob) <= self._room:
            self._room -= len(blob)
            self._blobs[name] = blob
            return
        with naming_full_disk(self._folder):
            if self._file is None:
                self._file = TemporaryFile(dir=self._folder)  # noqa: SIM115 (closed by __exit__)
            self._places[name] = self._file.seek(0, 2), len(blob)
            self._file.write(blob)
            self._file.flush()

    def take(self, name: str) -> bytes:
        """Return a blob and remove it."""
        if name in self._blobs:
            blob = self._blobs.pop(name)
            self._room += len(blob)
            return blob
        start, size = self._places.pop(name)
        assert self._file is not None, "a place is a place in the file"
        self._file.seek(start)
        return self._file.read(size)
