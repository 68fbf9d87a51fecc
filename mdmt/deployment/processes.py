"""Starting Flower's processes, and keeping them running."""

from __future__ import annotations

import fcntl
import logging
import os
import re
import signal
import socket
import subprocess
import sysconfig
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import typer

from mdmt.errors import StateError
from mdmt.files import limit_log
from mdmt.workers import TIED_TO_PARENT

log = logging.getLogger(__name__)

_GRACE = 10.0
"""Seconds that a process has to end before it is killed."""
_STEADY = 60.0
"""A process that ran for so many seconds runs well: its next restart is quick again."""


def flower_environment(home: Path) -> dict[str, str]:
    """Environment of every Flower process we start: a private folder, our packages, no network."""
    packages, inherited = str(Path(__file__).resolve().parents[2]), os.environ
    direct = inherited.get("NO_PROXY") or inherited.get("no_proxy")
    near = ",".join(filter(None, [direct, "127.0.0.1,localhost"]))
    return {
        **inherited,
        "FLWR_HOME": str(home),
        "FLWR_DISABLE_UPDATE_CHECK": "1",
        "FLWR_TELEMETRY_ENABLED": "0",
        "NO_PROXY": near,
        "no_proxy": near,
        # Flower starts its processes by name. Their scripts are beside this Python.
        "PATH": os.pathsep.join([sysconfig.get_path("scripts"), inherited.get("PATH", os.defpath)]),
        "PYTHONPATH": os.pathsep.join(filter(None, [packages, inherited.get("PYTHONPATH")])),
    }


def free_port() -> int:
    """Find a port of the loopback address that is free now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def is_running(pid: int) -> bool:
    """Whether a process of this machine runs. A zombie does not."""
    try:
        os.kill(pid, 0)
        status = Path(f"/proc/{pid}/stat").read_text()  # "PID (NAME) STATE ..."
    except ProcessLookupError:
        return False
    except OSError:  # another user's process, or a system without /proc
        return True
    return status.rpartition(")")[2].split()[0] != "Z"


def last_error(log_path: Path, since: int = 0) -> str:
    """Return the last exception after byte `since` of a log, else its last lines, on one line."""
    if not log_path.exists():
        return "no output"
    text = typer.unstyle(log_path.read_bytes()[since:].decode(errors="replace"))
    lines = [line.strip(" │") for line in text.splitlines() if "INFO" not in line]
    exceptions = [line for line in lines if re.match(r"[\w.]*(Error|Exception)\b|No module", line)]
    return " | ".join(exceptions[-1:] or [line for line in lines if line][-3:]) or "no output"


class Service:
    """A process that is started again when it ends, after longer pauses while it keeps ending.

    It ends with this process: a SuperNode that stayed would keep its site's place at the server.

    Parameters
    ----------
    name : str
        For messages.
    command : callable
        Returns the command line of the next start.
    environment : mapping of str to str
    log_file : Path
        Its output is appended here. Old lines are moved away when there are too many.
    pauses : sequence of float
        Seconds before the first, second, ... restart in a row; the last one repeats.
    advice : str
        What to do if it keeps ending.
    """

    def __init__(
        self,
        name: str,
        command: Callable[[], Sequence[str]],
        environment: Mapping[str, str],
        log_file: Path,
        pauses: Sequence[float] = (1.0, 5.0, 15.0, 60.0),
        advice: str = "",
    ) -> None:
        self.name, self.pauses, self.advice = name, pauses, advice
        self._command, self._environment, self._log_file = command, environment, log_file
        self._process: subprocess.Popen[bytes] | None = None
        self._started = self._next_start = 0.0
        self._log_begin = self._log_read = self._failures = 0

    @property
    def pid(self) -> int | None:
        """Process id while it runs."""
        process = self._process
        return process.pid if process is not None and process.poll() is None else None

    def tend(self) -> None:
        """Start the process if it is not running and its pause is over. Never waits."""
        if limit_log(self._log_file):
            self._log_begin = self._log_read = 0
        if self._process is not None and self._process.poll() is None:
            if time.monotonic() - self._started > _STEADY:
                self._failures = 0
            return
        if self._process is not None:
            self._plan_restart(self._process.returncode)
        if time.monotonic() < self._next_start:
            return
        self._log_file.parent.mkdir(parents=True, exist_ok=True)
        with self._log_file.open("ab") as stream:
            self._log_begin = self._log_read = stream.tell()
            self._process = subprocess.Popen(
                [*TIED_TO_PARENT, *self._command()],
                env=dict(self._environment),
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C reaches this process only
            )
        self._started = time.monotonic()
        log.info("%s runs as process %d", self.name, self._process.pid)

    def new_lines(self) -> str:
        """Return the complete lines that the process has written since the last call."""
        if not self._log_file.exists():
            return ""
        with self._log_file.open("rb") as stream:
            stream.seek(self._log_read)
            found = stream.read()
        complete = found[: found.rfind(b"\n") + 1]
        self._log_read += len(complete)
        return complete.decode(errors="replace")

    def _plan_restart(self, code: int) -> None:
        ending = f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
        pause = self.pauses[min(self._failures, len(self.pauses) - 1)]
        story = f"{self.name} ended with {ending} ({last_error(self._log_file, self._log_begin)})"
        log.warning(
            "%s; it starts again in %.0f s, see %s%s", story, pause, self._log_file, self.advice
        )
        self._process, self._next_start = None, time.monotonic() + pause
        self._failures += 1

    def stop(self) -> bool:
        """End the process: terminate it, then kill it if it does not end. Return True if it did."""
        if self._process is None:
            return True
        self._process.terminate()
        try:
            self._process.wait(_GRACE)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
            return False
        return True


@contextmanager
def only_one(lock_file: Path, what: str) -> Iterator[None]:
    """Hold a lock while the block runs, so that `what` is not started twice.

    Raises
    ------
    StateError
        Another process has the lock.
    """
    lock_file.parent.mkdir(parents=True, exist_ok=True)
    with lock_file.open("a+") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            lock.seek(0)
            raise StateError(f"{what} runs already, as process {lock.read().strip()}") from error
        lock.truncate(0)
        lock.write(str(os.getpid()))
        lock.flush()
        yield


@contextmanager
def until_stopped() -> Iterator[None]:
    """Run the block until SIGTERM (sent by systemd) or Ctrl-C; neither is an error."""
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    except KeyboardInterrupt:
        log.info("stopped")
    finally:
        signal.signal(signal.SIGTERM, before)
