"""Running one measured thing in processes of its own: its time, its memory, and its end."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import sysconfig
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

from mdmt.processes import is_running, last_words

__all__ = ["MDMT", "Failed", "Outcome", "Tree", "background", "job", "run", "tell", "wait_until"]

ROOT = Path(__file__).resolve().parents[1]
MDMT = str(Path(sysconfig.get_path("scripts")) / "mdmt")
"""The command as a user has it."""
_MARK = "MDMT_BENCH_MARK"
_LOOK = 0.05
"""Seconds between two looks at memory."""
_GRACE = 10.0
"""Seconds that processes have to end before they are killed."""
_THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


class Failed(Exception):
    """A measured process failed: there is no figure."""


@dataclass(frozen=True)
class Outcome:
    """What was measured of one command.

    Attributes
    ----------
    started : float
        Seconds since 1970 just before its start.
    seconds : float
        Until its end.
    memory : list of (float, int)
        Seconds since 1970, and proportional set size of all its processes in bytes.
    said : dict
        The JSON of its last line, empty if that is none.
    """

    started: float
    seconds: float
    memory: list[tuple[float, int]]
    said: dict[str, Any]

    @property
    def peak(self) -> int:
        """Peak of the summed memory in bytes."""
        return max((size for _, size in self.memory), default=0)


class Tree:
    """All processes that descend from one command, also those whose parents have ended.

    A process belongs to it if its first environment holds the mark, or its parent belongs to it.
    """

    def __init__(self, mark: str) -> None:
        self._mark = f"{_MARK}={mark}".encode()
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


class _Watch(threading.Thread):
    """Notes the memory of a tree until told to stop.

    The proportional set size counts a shared page once, but the kernel walks all pages for it: it
    is read when the resident size, which is cheap, has grown by 1 %, and once a second.
    """

    def __init__(self, tree: Tree) -> None:
        super().__init__(daemon=True)
        self.samples: list[tuple[float, int]] = []
        self._tree, self._over = tree, threading.Event()

    def run(self) -> None:
        highest, due = 0.0, 0.0
        while not self._over.wait(_LOOK):
            pids = self._tree.pids()
            resident = sum(map(_resident, pids))
            if resident > 1.01 * highest or time.monotonic() >= due:
                highest, due = max(highest, resident), time.monotonic() + 1
                self.samples.append((time.time(), sum(map(_proportional, pids))))

    def stop(self) -> list[tuple[float, int]]:
        self._over.set()
        self.join()
        return self.samples


def job(name: str, *arguments: object) -> list[str]:
    """Command line of one of our jobs, a module of this package."""
    return [sys.executable, "-m", f"benchmarks.{name}", *map(str, arguments)]


def run(
    command: Sequence[str],
    folder: Path,
    *,
    environment: Mapping[str, str] | None = None,
    timeout: float = 900,
) -> Outcome:
    """Run a command to its end, in processes of its own, none of which outlives this call.

    Parameters
    ----------
    command : sequence of str
    folder : Path
        Its working directory, made if missing, where its output is kept.
    environment : mapping of str to str, optional
        Added to ours, from which settings of thread counts are taken out.
    timeout : float
        Seconds.

    Raises
    ------
    Failed
        It ended with an error, or not in time.
    """
    folder.mkdir(parents=True, exist_ok=True)
    mark = uuid4().hex
    tree = Tree(mark)
    out, log = folder / "stdout", folder / "stderr"
    watch = _Watch(tree)
    try:
        with out.open("wb") as stdout, log.open("wb") as stderr:
            started, clock = time.time(), time.monotonic()
            process = subprocess.Popen(
                command,
                cwd=folder,
                env=_environment(mark, environment or {}),
                stdin=subprocess.DEVNULL,
                stdout=stdout,
                stderr=stderr,
                start_new_session=True,  # a Ctrl-C is ours to handle
            )
            watch.start()
            code = process.wait(timeout)
            seconds = time.monotonic() - clock
    except subprocess.TimeoutExpired as error:
        raise Failed(f"{' '.join(command[:5])} did not end within {timeout:.0f} s") from error
    finally:
        before = signal.signal(signal.SIGINT, signal.SIG_IGN)  # a second Ctrl-C leaves none behind
        memory = watch.stop() if watch.is_alive() else watch.samples
        tree.end()
        signal.signal(signal.SIGINT, before)
    if code:
        raise Failed(f"{' '.join(command[:5])} ended with {code}: {last_words(log)}")
    return Outcome(started, seconds, memory, _last_json(out))


@contextmanager
def background(command: Sequence[str], folder: Path, log: str, **variables: str) -> Iterator[Path]:
    """Keep a command running during the block; yields its log. Only for use inside jobs."""
    file = folder / log
    with file.open("wb") as stream:
        process = subprocess.Popen(
            command,
            cwd=folder,
            env={**os.environ, **variables},
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=stream,
        )
    try:
        yield file
    finally:
        process.terminate()
        try:
            process.wait(_GRACE)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def wait_until(condition: Callable[[], bool], what: str, seconds: float = 120) -> None:
    """Wait for `condition`.

    Raises
    ------
    Failed
        It does not come true in time.
    """
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise Failed(f"waited {seconds:.0f} s for {what}")
        time.sleep(0.1)


def tell(**values: object) -> None:
    """Say what a job measured, as the last line it writes."""
    sys.stdout.write(json.dumps(values) + "\n")


def _environment(mark: str, more: Mapping[str, str]) -> dict[str, str]:
    inherited = {key: value for key, value in os.environ.items() if key not in _THREADS}
    path = os.pathsep.join(filter(None, [str(ROOT), inherited.get("PYTHONPATH")]))
    return {**inherited, "PYTHONPATH": path, _MARK: mark, **more}


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


def _last_json(file: Path) -> dict[str, Any]:
    lines = file.read_text(encoding="utf-8", errors="replace").splitlines()
    try:
        said = json.loads(lines[-1]) if lines else {}
    except ValueError:
        return {}
    return said if isinstance(said, dict) else {}
