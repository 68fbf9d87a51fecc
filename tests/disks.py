"""Disks that fail, for tests, by mounts; a test that may not mount is skipped."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest


@contextmanager
def full_disk(folder: Path) -> Iterator[None]:
    """Mount a disk without any space left on a folder, hiding what is in it."""
    folder.mkdir(parents=True, exist_ok=True)
    with _mounted(folder, "-t", "tmpfs", "-o", "size=64k", "tmpfs"):
        filling = os.open(folder / "filling", os.O_CREAT | os.O_WRONLY)
        with suppress(OSError):
            while True:
                os.write(filling, bytes(4096))
        os.close(filling)
        yield


@contextmanager
def read_only_disk(folder: Path) -> Iterator[None]:
    """Let nothing be written below a folder; what is in it can be read."""
    with _mounted(folder, "--bind", folder):
        _run("mount", "-o", "remount,ro,bind", folder)
        yield


@contextmanager
def _mounted(folder: Path, *what: object) -> Iterator[None]:
    try:
        _run("mount", *what, folder)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("mounting a disk is not permitted here; it takes root")
    try:
        yield
    finally:
        _run("umount", "--lazy", folder)  # a process may still have a file open


def _run(*command: object) -> None:
    subprocess.run(list(map(str, command)), check=True, capture_output=True)
