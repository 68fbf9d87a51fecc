"""A federation in Flower's own simulation engine, with sites in Ray actors.

`flwr run` starts a SuperLink that outlives it, on a port that all users of a machine share.
It imports modules from the folder where that SuperLink was first started. Here each run has its own
SuperLink with a free port, a private home and a neutral working directory. A keeper process ends
all of it when the run ends, or the process that started the run.
"""

from __future__ import annotations

import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import httpx
import typer

from mdmt.deployment.processes import flower_environment, free_port, last_error
from mdmt.errors import RunError
from mdmt.files import write_text
from mdmt.results.runs import read_lines
from server.deployment.bundle import APP
from server.flower import connect_control, start_run
from server.run import last_event, raise_unless_done

_START_TIMEOUT = 60.0
"""Seconds until a SuperLink must listen."""


def run_ray(
    config_path: Path,
    out: Path,
    n_sites: int,
    *,
    threads: int,
    resume: bool = False,
) -> None:
    """Run a federation in Flower's simulation engine and wait for its end.

    Parameters
    ----------
    config_path : Path
        The resolved federation. Each simulated node has a ``partition-id`` in [0, n_sites).
    out : Path
        Run directory, written by the ServerApp; Flower's log is kept as its ``flwr.log``.
    n_sites : int
        Number of simulated nodes.
    threads : int
        CPUs of a site's actor; as many sites run at once as the machine has CPUs for.
    resume : bool
        Continue after the last complete round of the run in `out`.

    Raises
    ------
    BadInput
        The ServerApp ended with exit code 2: the sites cannot form this federation.
    RunError
        The run ended in any other way but ``done``.
    """
    out.mkdir(parents=True, exist_ok=True)
    log_path = out / "flwr.log"
    log_path.write_bytes(b"")
    earlier = len(read_lines(out / "events.jsonl"))
    values = {"federation": config_path, "out": out, "resume": resume}
    resources = {
        "num_supernodes": n_sites,
        "client_resources_num_cpus": threads,
        "init_args_num_cpus": max(threads, os.cpu_count() or 1),
    }
    refusal = ""
    with _superlink(threads, log_path) as address, log_path.open("a", encoding="utf-8") as log:
        try:
            with connect_control(address) as ask:
                run = start_run(ask, APP, values, **resources)
                for part in ask("StreamLogs", run_id=int(run)):
                    log.write(part.log_output)
                    log.flush()
        except httpx.HTTPError as error:
            refusal = f"{type(error).__name__}: {error}"
    write_text(log_path, typer.unstyle(log_path.read_text(encoding="utf-8", errors="replace")))
    failure = f"the run failed: {refusal or last_error(log_path)}; see {log_path}"
    raise_unless_done(last_event(out, earlier), failure)


@contextmanager
def _superlink(threads: int, log_path: Path) -> Iterator[str]:
    """Run our own SuperLink; yield its address."""
    # Below /tmp, whatever TMPDIR says: the paths of Ray's sockets must stay under 107 bytes.
    home = Path(tempfile.mkdtemp(prefix="mdmt-", dir="/tmp"))
    port = free_port()
    with log_path.open("ab") as log:
        keeper = subprocess.Popen(
            [sys.executable, "-m", "simulation.ray", str(port)],
            cwd=home,
            env=_environment(home, threads),
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    try:
        _wait_until_listening(keeper, port, log_path)
        yield f"127.0.0.1:{port}"
    finally:
        keeper.communicate()  # closes its input, which makes it end everything


def _environment(home: Path, threads: int) -> dict[str, str]:
    """Environment of all processes of a run."""
    environment = flower_environment(home)
    # A RAY_ADDRESS would lead into somebody's cluster.
    inherited = {key: value for key, value in environment.items() if not key.startswith("RAY_")}
    return inherited | {
        "FLWR_SUPEREXEC_TASK_POLL_INTERVAL": "0.05",  # this SuperLink has one run, and soon ends
        "OMP_NUM_THREADS": str(threads),
        "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # every actor sees the GPUs; `device` says which
        # As on other systems: Ray's servers listen on the loopback address, not on the network's.
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
        "RAY_TMPDIR": str(home),
        "RAY_USAGE_STATS_ENABLED": "0",
    }


def _wait_until_listening(keeper: subprocess.Popen[bytes], port: int, log_path: Path) -> None:
    deadline = time.monotonic() + _START_TIMEOUT
    while keeper.poll() is None and time.monotonic() < deadline:
        with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
            return
        time.sleep(0.05)
    raise RunError(f"Flower's SuperLink did not start: {last_error(log_path)}; see {log_path}")


def _keep(port: str) -> None:
    """Run a SuperLink while our standard input is open; then end all processes of our FLWR_HOME.

    Flower's processes do not end with their parents while a ServerApp is busy.
    """
    address = ["--host", "127.0.0.1", "--port", port]
    offline = "--disable-runtime-dependency-installation"
    superlink = subprocess.Popen(
        ["flower-superlink", "--insecure", "--simulation", offline, *address],
        stdin=subprocess.DEVNULL,
    )
    while superlink.poll() is None and not select.select([sys.stdin], [], [], 0.2)[0]:
        pass
    superlink.kill()
    superlink.wait()
    home = os.environ["FLWR_HOME"]
    while pids := _processes_of(home):
        for pid in pids:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.05)
    shutil.rmtree(home, ignore_errors=True)


def _processes_of(home: str) -> list[int]:
    """Find other processes with this FLWR_HOME; none without /proc."""
    mark = f"FLWR_HOME={home}".encode()
    found = []
    for environment in Path("/proc").glob("[0-9]*/environ"):
        with suppress(OSError):
            if mark in environment.read_bytes().split(b"\0"):
                found.append(int(environment.parent.name))
    return [pid for pid in found if pid != os.getpid()]


if __name__ == "__main__":
    _keep(sys.argv[1])
