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

from mdmt.errors import StateError
from mdmt.workers import TIED_TO_PARENT

__all__ = [
    "Service",
    "flower_environment",
    "free_port",
    "is_running",
    "last_words",
    "only_one",
    "plain_text",
    "until_stopped",
]

log = logging.getLogger(__name__)

_COLOUR = re.compile(r"\x1b\[[0-9;]*m")
_GRACE = 10.0
"""Seconds a process has to end before it is killed."""
_STEADY = 60.0
"""Seconds after which a process is taken to run well: its next restart is quick again."""


def flower_environment(home: Path) -> dict[str, str]:
    """Environment of every Flower process we start: a private folder, our packages, no network."""
    packages = str(Path(__file__).resolve().parents[2])
    inherited = os.environ
    direct = inherited.get("NO_PROXY") or inherited.get("no_proxy")
    near = ",".join(filter(None, [direct, "127.0.0.1,localhost"]))
    return {
        **inherited,
        "FLWR_HOME": str(home),
        "FLWR_DISABLE_UPDATE_CHECK": "1",
        "FLWR_TELEMETRY_ENABLED": "0",
        "NO_PROXY": near,
        "no_proxy": near,
        # Flower starts its processes by name; they lie beside this Python.
        "PATH": os.pathsep.join([sysconfig.get_path("scripts"), inherited.get("PATH", os.defpath)]),
        "PYTHONPATH": os.pathsep.join(filter(None, [packages, inherited.get("PYTHONPATH")])),
    }


def free_port() -> int:
    """Give a port of the loopback address that nobody uses right now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def is_running(pid: int) -> bool:
    """Whether a process of this machine runs; one that ended and that nobody asked why does not."""
    try:
        os.kill(pid, 0)
        status = Path(f"/proc/{pid}/stat").read_text()  # the state stands behind the name
    except ProcessLookupError:
        return False
    except OSError:  # somebody else's, or a system without /proc
        return True
    return status.rpartition(")")[2].split()[0] != "Z"


def plain_text(text: str) -> str:
    """Take out the colours that Flower writes even where there is no terminal."""
    return _COLOUR.sub("", text)


def last_words(log_path: Path, since: int = 0) -> str:
    """Give the last exception beyond byte `since` of a log, else its last lines, on one line."""
    if not log_path.exists():
        return "no output"
    text = plain_text(log_path.read_bytes()[since:].decode(errors="replace"))
    lines = [line.strip(" │") for line in text.splitlines() if "INFO" not in line]
    exceptions = [line for line in lines if re.match(r"[\w.]*(Error|Exception)\b|No module", line)]
    return " | ".join(exceptions[-1:] or [line for line in lines if line][-3:]) or "no output"


class Service:
    """A process that is started again whenever it ends, ever less eagerly while it keeps ending.

    It does not outlive this one: a SuperNode left behind would keep its site's place at the server.

    Parameters
    ----------
    name : str
        For messages.
    command : callable
        Gives the command line of the next start.
    environment : mapping of str to str
    log_file : Path
        Its output is appended here.
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
        self._started = 0.0
        self._log_begin = 0
        self._failures = 0
        self._next_start = 0.0

    @property
    def pid(self) -> int | None:
        """Process id while it runs."""
        running = self._process is not None and self._process.poll() is None
        return self._process.pid if running and self._process else None

    def tend(self) -> None:
        """Start the process if it is not running and its pause is over; never waits."""
        if self._process is not None:
            code = self._process.poll()
            if code is None:
                if time.monotonic() - self._started > _STEADY:
                    self._failures = 0
                return
            pause = self.pauses[min(self._failures, len(self.pauses) - 1)]
            log.warning(
                "%s ended with %s (%s); it starts again in %.0f s, see %s%s",
                *(self.name, _ending(code), last_words(self._log_file, self._log_begin)),
                *(pause, self._log_file),
                self.advice,
            )
            self._process, self._next_start = None, time.monotonic() + pause
            self._failures += 1
        if time.monotonic() < self._next_start:
            return
        self._log_file.parent.mkdir(parents=True, exist_ok=True)
        with self._log_file.open("ab") as stream:
            self._log_begin = stream.tell()
            self._process = subprocess.Popen(
                [*TIED_TO_PARENT, *self._command()],
                env=dict(self._environment),
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # a Ctrl-C is ours to handle
            )
        self._started = time.monotonic()
        log.info("%s runs as process %d", self.name, self._process.pid)

    def stop(self) -> None:
        """End the process: ask, then insist."""
        if self._process is None:
            return
        if self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(_GRACE)
            except subprocess.TimeoutExpired:
                self._process.kill()
        self._process.wait()


def _ending(code: int) -> str:
    """Say how a process ended."""
    return f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"


@contextmanager
def only_one(lock_file: Path, what: str) -> Iterator[None]:
    """Hold a lock while the block runs, so that nobody starts the same thing beside it.

    Raises
    ------
    StateError
        Somebody holds it.
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
    """Let SIGTERM (what systemd sends) and Ctrl-C end the block, orderly and without an error."""

    def interrupt(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    except KeyboardInterrupt:
        log.info("stopped")
    finally:
        signal.signal(signal.SIGTERM, before)
