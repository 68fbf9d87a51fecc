"""All processes of one command: their memory, and their end."""

from __future__ import annotations

import os
import signal
import threading
import time
from contextlib import suppress
from pathlib import Path

from mdmt.deployment.processes import is_running

__all__ = ["MARK", "Tree", "Watch"]

MARK = "MDMT_BENCH_MARK"
"""Variable of the environment that says which command a process descends from."""
_GRACE = 10.0
"""Seconds that processes have to end before they are killed."""
_LOOK = 0.05
"""Seconds between two looks at memory."""


class Tree:
    """All processes that descend from one command, also those whose parents have ended.

    A process belongs to it if its first environment holds the mark, or its parent belongs to it.
    """

    def __init__(self, mark: str) -> None:
        self._mark = f"{MARK}={mark}".encode()
        self._known: dict[int, bool] = {}

    def pids(self) -> list[int]:
        """Process ids of those that run now."""
        present = sorted(int(entry.name) for entry in os.scandir("/proc") if entry.name.isdigit())
        self._known = {
            pid: self._known[pid] if pid in self._known else self._belongs(pid) for pid in present
        }
        return [pid for pid in present if self._known[pid]]

    def _belongs(self, pid: int) -> bool:
        try:
            status = Path(f"/proc/{pid}/stat").read_text()
            state, parent = status.rpartition(")")[2].split()[:2]
            if state == "Z":
                return False
            marked = self._mark in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
        except OSError:  # it has ended, or is somebody else's
            return False
        return marked or self._known.get(int(parent), False)

    def end(self) -> None:
        """End all of them by pid: ask, then insist."""
        for number, patience in ((signal.SIGTERM, _GRACE), (signal.SIGKILL, _GRACE)):
            asked: set[int] = set()
            deadline = time.monotonic() + patience
            while (pids := [*filter(is_running, self.pids())]) and time.monotonic() < deadline:
                for pid in set(pids) - asked:
                    with suppress(ProcessLookupError):
                        os.kill(pid, number)
                asked |= set(pids)
                time.sleep(0.05)


class Watch(threading.Thread):
    """Notes the memory of a tree until told to stop.

    The proportional set size counts a shared page once, but the kernel walks all pages for it: it
    is read when the resident size, which is cheap, has grown by 1 %, and once a second.
    """

    def __init__(self, tree: Tree) -> None:
        super().__init__(daemon=True)
        self.samples: list[tuple[float, int]] = []
        self._tree, self._over = tree, threading.Event()

    def run(self) -> None:
        """Look again and again."""
        highest, due = 0.0, 0.0
        while not self._over.wait(_LOOK):
            pids = self._tree.pids()
            resident = sum(map(_resident, pids))
            if resident > 1.01 * highest or time.monotonic() >= due:
                highest, due = max(highest, resident), time.monotonic() + 1
                self.samples.append((time.time(), sum(map(_proportional, pids))))

    def stop(self) -> list[tuple[float, int]]:
        """Seconds since 1970 and bytes, as far as it was looked."""
        self._over.set()
        self.join()
        return self.samples


def _resident(pid: int) -> int:
    with suppress(OSError):
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    return 0


def _proportional(pid: int) -> int:
    with suppress(OSError):
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) * 1024
    return 0
