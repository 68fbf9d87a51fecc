"""Freed memory is used again, until it is given back."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

pytestmark = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="needs the GNU C library")
SCRIPT = """
from pathlib import Path
from mdmt.memory import keep_memory, return_memory

def resident():
    fields = dict(line.split(":") for line in Path("/proc/self/status").read_text().splitlines())
    return int(fields["VmRSS"].split()[0]) / 1000  # MB

BEFORE
empty = resident()
block = bytes([1]) * 100_000_000
full = resident()
del block
AFTER
print(full - empty, resident() - empty)
"""


def used_and_kept(before, after):
    """MB that a process gets for a block of 100 MB, and has when it is freed."""
    script = SCRIPT.replace("BEFORE", before).replace("AFTER", after)
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, check=True)
    return [float(number) for number in done.stdout.split()]


def test_a_process_that_trains_has_its_memory_ready_for_the_next_step():
    used, kept = used_and_kept("keep_memory()", "")
    assert used == pytest.approx(kept, abs=1)
    assert used > 90


def test_what_was_kept_can_be_given_back():
    used, kept = used_and_kept("keep_memory()", "return_memory()")
    assert used > 90
    assert kept < 10


def test_unasked_nothing_changes():
    used, kept = used_and_kept("", "")
    assert used > 90
    assert kept < 10
