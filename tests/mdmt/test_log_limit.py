"""Logs have a bounded size, also while a process writes them."""

from __future__ import annotations

import shutil
import sys
import time
from pathlib import Path

import pytest

from mdmt.deployment.processes import Service
from mdmt.files import limit_log


def test_a_large_log_continues_empty(tmp_path: Path) -> None:
    log = tmp_path / "site.log"
    assert not limit_log(log, 10)
    log.write_text("short\n")
    assert not limit_log(log, 10)
    with log.open("a") as running:
        running.write("a longer line\n")
        running.flush()
        assert limit_log(log, 10)
        running.write("next\n")
    assert log.read_text() == "next\n"
    assert (tmp_path / "site.log.1").read_text() == "short\na longer line\n"


def test_a_full_disk_loses_the_old_lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(shutil, "copyfile", full)
    log = tmp_path / "site.log"
    log.write_text("a longer line\n")
    assert limit_log(log, 10)
    assert log.read_text() == ""


def test_the_log_of_a_process_that_runs_for_months_is_bounded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mdmt.deployment.processes.limit_log", lambda log: limit_log(log, 5000))
    code = "import time\nwhile True: print('x' * 99, flush=True); time.sleep(1e-4)"
    log = tmp_path / "supernode.log"
    service = Service("test", lambda: [sys.executable, "-c", code], {}, log)
    try:
        end = time.monotonic() + 20
        while not log.with_name("supernode.log.1").exists() and time.monotonic() < end:
            service.tend()
            time.sleep(0.005)
        pid = service.pid
        service.tend()
        assert service.pid == pid is not None, "the process was not started again"
    finally:
        service.stop()
    assert log.with_name("supernode.log.1").stat().st_size > 5000
    assert set(log.read_bytes()) <= set(b"x\n"), "no gap of zeros before the next line"
