"""A run directory belongs to one run, and one process at a time writes to it.

The file of the events serves as the mark and as the lock: every run has it, and the lock of a
process that was killed is gone with it.
"""

from __future__ import annotations

import fcntl
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mdmt.errors import BadInput, StateError

_EVENTS = "events.jsonl"
_PATIENCE = 30.0
"""Seconds that an earlier attempt at the run has to end."""
_PAUSE = 0.1


def claim(folder: Path) -> None:
    """Take an empty folder for a new run, so that no other process takes it too.

    Raises
    ------
    BadInput
        The folder has files, or another process has just taken it.
    """
    try:
        if any(folder.iterdir()):
            raise FileExistsError
        (folder / _EVENTS).touch(exist_ok=False)  # of two processes, one creates the file
    except (FileExistsError, NotADirectoryError) as error:
        raise BadInput(f"{folder}: is not empty; choose another --out") from error


@contextmanager
def only_writer(folder: Path, patience: float = _PATIENCE) -> Iterator[None]:
    """Hold the lock of a run directory while the block runs.

    An earlier attempt at the run may need some seconds to end after it was stopped.

    Raises
    ------
    StateError
        Another process still writes to it after `patience` seconds.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / _EVENTS).open("ab") as lock:
        end = time.monotonic() + patience
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError as error:
                if time.monotonic() > end:
                    raise StateError(
                        f"{folder}: another process writes this run: wait for its end, or choose"
                        " another --out"
                    ) from error
            time.sleep(_PAUSE)
        yield
