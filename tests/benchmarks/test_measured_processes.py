"""One measured command: all its processes count, and none outlives it."""

from __future__ import annotations

import os
import sys

import pytest

from benchmarks.processes import Failed, run
from benchmarks.tree import Tree
from mdmt.deployment.processes import is_running

MB = 1_000_000
HOLD = "import time; kept = bytearray(100_000_000); time.sleep(1)"
ORPHAN = """
import json, subprocess, sys
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"],
                         start_new_session=True)
print(json.dumps({"child": child.pid}))
"""


def python(code):
    return [sys.executable, "-c", code]


def test_a_command_that_fails_gives_no_figure(tmp_path):
    with pytest.raises(Failed, match="ended with 3: ValueError: told"):
        run(python("import sys; print('ValueError: told', file=sys.stderr); sys.exit(3)"), tmp_path)


def test_a_command_that_hangs_is_ended(tmp_path):
    file = tmp_path / "pid"
    code = f"import os, time; open({str(file)!r}, 'w').write(str(os.getpid())); time.sleep(60)"
    with pytest.raises(Failed, match="did not end within 1 s"):
        run(python(code), tmp_path, timeout=1)
    assert not file.exists() or not is_running(int(file.read_text()))


def test_a_process_that_a_command_leaves_behind_is_ended(tmp_path):
    outcome = run(python(ORPHAN), tmp_path)
    assert not is_running(outcome.said["child"])


def test_memory_counts_a_commands_children(tmp_path):
    one = run(python(HOLD), tmp_path).peak
    child = f"child = subprocess.Popen([sys.executable, '-c', {HOLD!r}])"
    code = f"import subprocess, sys\n{child}\n{HOLD}\nchild.wait()"
    both = run(python(code), tmp_path).peak
    assert 100 * MB < one < 130 * MB
    assert 200 * MB < both < 260 * MB


def test_a_command_inherits_no_thread_count(tmp_path, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    code = "import json, os; print(json.dumps({'threads': os.environ.get('OMP_NUM_THREADS')}))"
    assert run(python(code), tmp_path).said == {"threads": None}


def test_a_tree_holds_nobody_elses_processes():
    assert os.getpid() not in Tree("nobody").pids()
