"""Reuse freed memory, instead of requesting new memory for every step and message."""

from __future__ import annotations

import ctypes
import sys
from functools import cache

_TRIM_THRESHOLD, _MMAP_MAX = -1, -4
"""Parameters of mallopt(3), GNU C library."""


@cache
def keep_memory() -> None:
    """Let this process and its forks keep freed memory for later use.

    By default the C library returns large blocks (activations, messages) to the system at once.
    The system fills new blocks with zeros page by page, and each training step on a CPU waits for
    this. With this setting a process keeps its peak memory until `return_memory`. On other systems
    than Linux with glibc this function does nothing.
    """
    if (library := _glibc()) is not None:
        library.mallopt(_MMAP_MAX, 0)
        library.mallopt(_TRIM_THRESHOLD, -1)


def return_memory() -> None:
    """Return free memory to the system."""
    if (library := _glibc()) is not None:
        library.malloc_trim(0)


def _glibc() -> ctypes.CDLL | None:
    if sys.platform != "linux" or not hasattr(library := ctypes.CDLL(None), "mallopt"):
        return None
    return library
