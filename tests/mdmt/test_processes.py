"""Processes that we keep running end with us."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

START = """
import os, sys, time
from pathlib import Path
from mdmt.processes import Service

service = Service("sleeper", lambda: ["sleep", "60"], os.environ, Path(sys.argv[1]))
service.tend()
command = Path("/proc") / str(service.pid) / "cmdline"
while not command.read_bytes().startswith(b"sleep"):  # what ties it to us has come first
    time.sleep(0.01)
print(service.pid, flush=True)
time.sleep(60)
"""


def test_a_service_does_not_outlive_its_killed_owner(tmp_path):
    """A SuperNode that did would keep its site's place, and the site could never come back."""
    command = [sys.executable, "-c", START, str(tmp_path / "log")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as owner:
        assert owner.stdout is not None
        service = Path("/proc") / owner.stdout.readline().strip()
        assert (service / "cmdline").read_bytes().startswith((b"sleep", b"setpriv"))
        os.kill(owner.pid, signal.SIGKILL)
        deadline = time.monotonic() + 10
        while _runs(service) and time.monotonic() < deadline:
            time.sleep(0.02)
        assert not _runs(service)


def _runs(process: Path) -> bool:
    """Whether a process is there and no zombie."""
    try:
        return (process / "stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
