"""Running one measured thing in processes of its own: its time, its memory, and its end."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import sysconfig
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

from benchmarks.tree import MARK, Tree, Watch
from mdmt.deployment.processes import last_error

__all__ = ["MDMT", "Failed", "Outcome", "background", "job", "run", "tell", "wait_until"]

ROOT = Path(__file__).resolve().parents[1]
MDMT = str(Path(sysconfig.get_path("scripts")) / "mdmt")
"""The command as a user has it."""
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
    watch = Watch(tree)
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
        raise Failed(f"{' '.join(command[:5])} ended with {code}: {last_error(log)}")
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
    return {**inherited, "PYTHONPATH": path, MARK: mark, **more}


def _last_json(file: Path) -> dict[str, Any]:
    lines = file.read_text(encoding="utf-8", errors="replace").splitlines()
    try:
        said = json.loads(lines[-1]) if lines else {}
    except ValueError:
        return {}
    return said if isinstance(said, dict) else {}
