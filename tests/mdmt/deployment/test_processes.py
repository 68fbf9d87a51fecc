"""Processes that we keep running end with us; which processes run."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

from mdmt.deployment.processes import Service, flower_environment, is_running, last_error

START = """
import os, sys, time
from pathlib import Path
from mdmt.deployment.processes import Service

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
        service = int(owner.stdout.readline())
        assert is_running(service)
        os.kill(owner.pid, signal.SIGKILL)
        deadline = time.monotonic() + 10
        while is_running(service) and time.monotonic() < deadline:
            time.sleep(0.02)
        assert not is_running(service)


def test_a_process_runs_until_it_ends_even_if_its_parent_does_not_ask_why():
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    assert is_running(child.pid)
    child.kill()
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)  # ended, and left as it is
    assert not is_running(child.pid)
    child.communicate()
    assert not is_running(child.pid)


def test_this_process_runs():
    assert is_running(os.getpid())


def test_flowers_processes_reach_directly_what_the_site_does(tmp_path, monkeypatch):
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.setenv("no_proxy", "fl.example.org")
    environment = flower_environment(tmp_path)
    assert environment["NO_PROXY"] == environment["no_proxy"]
    assert environment["NO_PROXY"] == "fl.example.org,127.0.0.1,localhost"


def test_a_process_is_not_blamed_for_what_the_one_before_it_wrote(tmp_path):
    log = tmp_path / "log"
    log.write_text("ValueError: of yesterday\n")
    earlier = log.stat().st_size
    assert last_error(log, earlier) == "no output"
    log.write_text(log.read_text() + "KeyError: of today\n")
    assert last_error(log, earlier) == "KeyError: of today"


def test_what_a_service_writes_is_read_once_and_by_whole_lines(tmp_path):
    log = tmp_path / "log"
    log.write_text("of yesterday\n")
    command = ["sh", "-c", "echo first; printf sec; sleep 30"]
    service = Service("writer", lambda: command, os.environ, log)
    service.tend()
    try:
        seen = ""
        deadline = time.monotonic() + 10
        while not seen and time.monotonic() < deadline:
            seen = service.new_lines()
        assert seen == "first\n"
        assert service.new_lines() == ""
        with log.open("a") as stream:
            stream.write("ond\n")
        assert service.new_lines().endswith("ond\n")
    finally:
        service.stop()
