"""Freed memory is used again: a large block does not cost its pages anew."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

SCRIPT = """
import resource
from mdmt.memory import keep_memory

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    bytes([1]) * 100_000_000
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

KEEP
faults()
print(faults())
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="needs the GNU C library")
@pytest.mark.parametrize("kept", [True, False])
def test_a_block_of_the_same_size_is_there_at_once(kept):
    script = SCRIPT.replace("KEEP", "keep_memory()" if kept else "")
    told = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    ).stdout
    # 100 MB are 24,414 pages of 4 KiB.
    assert (int(told) < 100) is kept
