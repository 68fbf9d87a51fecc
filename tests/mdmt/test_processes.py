"""Which processes run."""

from __future__ import annotations

import os
import subprocess
import sys

from mdmt.processes import is_running


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
