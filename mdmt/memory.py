"""Memory that is used again instead of being fetched anew for every step and message."""

from __future__ import annotations

import ctypes
import sys
from functools import cache

__all__ = ["keep_memory"]

_TRIM_THRESHOLD, _MMAP_MAX = -1, -4
"""Parameters of mallopt(3), GNU C library."""


@cache
def keep_memory() -> None:
    """Let this process, and what forks from it, keep freed memory for its next use.

    The C library gives large blocks (activations, messages) back to the system at once, which hands
    out others by zeroing them page by page: several per cent of a training step on a CPU. Kept, a
    process holds what it needed at its peak until it ends. Does nothing but on Linux with glibc.
    """
    if sys.platform != "linux" or not hasattr(library := ctypes.CDLL(None), "mallopt"):
        return
    library.mallopt(_MMAP_MAX, 0)
    library.mallopt(_TRIM_THRESHOLD, -1)
