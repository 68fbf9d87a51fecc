"""Memory that is used again instead of being fetched anew for every step and message."""

from __future__ import annotations

import ctypes
import sys
from functools import cache

__all__ = ["keep_memory", "return_memory"]

_TRIM_THRESHOLD, _MMAP_MAX = -1, -4
"""Parameters of mallopt(3), GNU C library."""


@cache
def keep_memory() -> None:
    """Let this process, and what forks from it, keep freed memory for its next use.

    The C library gives large blocks (activations, messages) back to the system at once, which hands
    out others by zeroing them page by page: every training step on a CPU waits for that. Kept, a
    process holds what it needed at its peak, until `return_memory`. Does nothing but on Linux with
    glibc.
    """
    if (library := _glibc()) is not None:
        library.mallopt(_MMAP_MAX, 0)
        library.mallopt(_TRIM_THRESHOLD, -1)


def return_memory() -> None:
    """Give what is free back to the system."""
    if (library := _glibc()) is not None:
        library.malloc_trim(0)


def _glibc() -> ctypes.CDLL | None:
    if sys.platform != "linux" or not hasattr(library := ctypes.CDLL(None), "mallopt"):
        return None
    return library
