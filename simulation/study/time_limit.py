"""When a study may start another cell."""

import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from simulation.study.cells import Cell


class TimeLimit:
    """A limit of minutes from now, which a study keeps without stopping a cell.

    Parameters
    ----------
    minutes : float or None
        None is no limit.
    clock : callable
        Seconds.
    """

    def __init__(self, minutes: float | None, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._end = math.inf if minutes is None else clock() + 60 * minutes
        self._longest: dict[str, float] = {}

    def book(self, saved: Mapping[str, Any]) -> None:
        """Remember how long a finished cell of an arm took."""
        arm = saved["arm"]
        self._longest[arm] = max(self._longest.get(arm, 0.0), saved["seconds"])

    def admit(self, cells: Iterable[Cell]) -> Iterator[Cell]:
        """Yield each cell that can end in time, when it is asked for; the others are left out.

        A cell is expected to take as long as the longest of its arm so far, or of all arms if its
        arm has none.
        """
        for cell in cells:
            longest = max(self._longest.values(), default=0.0)
            if self._clock() + self._longest.get(cell.arm.label, longest) < self._end:
                yield cell
