"""A federation through Flower's own simulation engine: ``flwr run``, with sites in Ray actors.

By itself `flwr run` starts a SuperLink that outlives it, on a port all users of a machine share,
and imports whatever lies where that SuperLink was first started. Here each run has its own: a free
port, a private home, a neutral working directory, and an end.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import sysconfig
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from mdmt.errors import BadInput, RunError

__all__ = ["run_ray"]

_START_TIMEOUT = 60.0
"""Seconds a SuperLink may take to listen."""
_STOP_TIMEOUT = 10.0
"""Seconds processes may take to end by themselves before they are killed."""


def run_ray(
    config_path: Path,
    out: Path,
    n_sites: int,
    *,
    threads: int,
    on_line: Callable[[str], None] | None = None,
) -> None:
    """Run a federation in Flower's simulation engine and wait for its end.

    Parameters
    ----------
    config_path : Path
        The resolved federation. Site i in name order is the node with ``partition-id`` i.
    out : Path
        Run directory, written by the ServerApp; Flower's log becomes its ``flwr.log``.
    n_sites : int
        Number of simulated nodes.
    threads : int
        CPUs of each site's actor; as many sites run at once as the machine has room for.
    on_line : callable, optional
        Called with each line of the log as it comes.

    Raises
    ------
    BadInput
        The ServerApp ended with exit code 2: the sites cannot form this federation.
    RunError
        The run ended in any other way but ``done``.
    """
    out.mkdir(parents=True, exist_ok=True)
    log_path, events_path = out / "flwr.log", out / "events.jsonl"
    earlier = len(_read_lines(events_path))
    # Below /tmp, whatever TMPDIR says: the paths of Ray's sockets must stay under 107 bytes.
    with (
        tempfile.TemporaryDirectory(prefix="mdmt-", dir="/tmp", ignore_cleanup_errors=True) as name,
        log_path.open("a", encoding="utf-8") as log,
    ):
        home = Path(name)
        environment = _environment(home, threads)
        _write_app(home / "app", {"federation": config_path, "out": out})
        with _superlink(home, environment, log_path):
            resources = (
                f"num-supernodes={n_sites} client-resources-num-cpus={threads}"
                f" init-args-num-cpus={max(threads, os.cpu_count() or 1)}"
            )
            with subprocess.Popen(
                [sys.executable, "-m", "flwr.cli.app", "run", "app", "own", "--stream"]
                + ["--federation-config", resources],
                cwd=home,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                start_new_session=True,
            ) as flwr:
                assert flwr.stdout is not None
                for line in flwr.stdout:
                    log.write(line)
                    log.flush()
                    if on_line is not None:
                        on_line(line.rstrip())
    _raise_unless_done(_read_lines(events_path)[earlier:], flwr.returncode, log_path)


def _write_app(folder: Path, run_config: Mapping[str, Path]) -> None:
    """Write a Flower app that ships nothing: its components are the installed packages."""
    folder.mkdir()
    config = [
        f"{key} = {json.dumps(str(path.resolve()), ensure_ascii=False)}"
        for key, path in run_config.items()
    ]
    lines = [
        "[project]",
        'name = "mdmt"',
        'version = "0"',
        'description = "MDMT as installed."',
        'license = "Apache-2.0"',
        "[tool.flwr.app]",
        'publisher = "mdmt"',
        "[tool.flwr.app.components]",
        'serverapp = "server.app:app"',
        'clientapp = "client.app:app"',
        "[tool.flwr.app.config]",
        *config,
    ]
    (folder / "pyproject.toml").write_text("\n".join(lines) + "\n", encoding="utf-8")


def _environment(home: Path, threads: int) -> dict[str, str]:
    """Environment of every process of the run: private folders, no network, no telemetry."""
    environment = {key: os.environ[key] for key in os.environ if not key.startswith("RAY_")}
    return environment | {
        "FLWR_HOME": str(home),
        "FLWR_TELEMETRY_ENABLED": "0",
        "FLWR_DISABLE_UPDATE_CHECK": "1",
        "FLWR_SUPEREXEC_TASK_POLL_INTERVAL": "0.05",
        "NO_PROXY": "127.0.0.1,localhost",
        "no_proxy": "127.0.0.1,localhost",
        "OMP_NUM_THREADS": str(threads),
        # Flower starts its helpers by name; they lie beside this Python.
        "PATH": sysconfig.get_path("scripts") + os.pathsep + environment.get("PATH", os.defpath),
        # The packages of this process, wherever they were imported from.
        "PYTHONPATH": os.pathsep.join(
            [str(Path(__file__).resolve().parents[1]), *environment.get("PYTHONPATH", "").split(os.pathsep)]
        ).rstrip(os.pathsep),
        "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # sites share GPUs: their device says which
        "RAY_DISABLE_IMPORT_WARNING": "1",
        "RAY_TMPDIR": str(home),
        "RAY_USAGE_STATS_ENABLED": "0",
    }


@contextmanager
def _superlink(home: Path, environment: Mapping[str, str], log_path: Path) -> Iterator[None]:
    """Run a SuperLink for the connection ``own`` of `home`; end it and all it started on leaving."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    (home / "config.toml").write_text(
        f'[superlink]\ndefault = "own"\n[superlink.own]\naddress = "127.0.0.1:{port}"\ninsecure = true\n',
        encoding="utf-8",
    )
    with (home / "superlink.log").open("w") as log:
        superlink = subprocess.Popen(
            [sys.executable, "-m", "simulation.ray", "--insecure", "--simulation"]
            + ["--host", "127.0.0.1", "--port", str(port)]
            + ["--disable-runtime-dependency-installation"],
            cwd=home,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        _wait_until_listening(superlink, port, home / "superlink.log")
        yield
    finally:
        _stop(superlink, home)


def _wait_until_listening(superlink: subprocess.Popen[bytes], port: int, log_path: Path) -> None:
    deadline = time.monotonic() + _START_TIMEOUT
    while superlink.poll() is None and time.monotonic() < deadline:
        with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
            return
        time.sleep(0.05)
    raise RunError(f"Flower's SuperLink did not start: {_tail(_read_lines(log_path))}")


def _stop(superlink: subprocess.Popen[bytes], home: Path) -> None:
    """End the SuperLink, and whatever still runs with our private `home`."""
    assert superlink.stdin is not None
    superlink.stdin.close()
    with suppress(subprocess.TimeoutExpired):
        superlink.wait(_STOP_TIMEOUT)
    superlink.kill()
    superlink.wait()
    deadline = time.monotonic() + _STOP_TIMEOUT
    while pids := _processes_of(home):
        if time.monotonic() > deadline:
            for pid in pids:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        time.sleep(0.05)


def _processes_of(home: Path) -> list[int]:
    """Processes whose environment holds our FLWR_HOME; none where there is no /proc."""
    mark = b"FLWR_HOME=" + os.fsencode(home)
    found = []
    for environ in Path("/proc").glob("[0-9]*/environ"):
        with suppress(OSError):
            if mark in environ.read_bytes().split(b"\0"):
                found.append(int(environ.parent.name))
    return found


def _raise_unless_done(events: list[str], code: int, log_path: Path) -> None:
    """Turn the last event of the run into its outcome: `flwr run` exits 0 on failures too."""
    event = json.loads(events[-1]) if events else {}
    if event.get("event") == "failed":
        raise (BadInput if event["exit_code"] == 2 else RunError)(event["message"])
    if event.get("event") != "done":
        tail = _tail(_read_lines(log_path))
        raise RunError(f"the run ended without a result; see {log_path}: {tail}")
    if code:
        raise RunError(f"flwr run exited with {code} after the run was done; see {log_path}")


def _read_lines(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8", errors="replace").splitlines() if path.exists() else []


def _tail(lines: list[str]) -> str:
    return " | ".join([line.strip() for line in lines if line.strip()][-5:]) or "no output"


def _serve() -> None:
    """Be a SuperLink for as long as the process that started us holds our standard input."""
    from flwr.superlink.cli import flower_superlink

    def follow() -> None:
        sys.stdin.buffer.read()
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=follow, daemon=True).start()
    flower_superlink()


if __name__ == "__main__":
    _serve()
