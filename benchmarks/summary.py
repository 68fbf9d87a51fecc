"""From several runs to the numbers of a row."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

__all__ = ["Row", "Summary", "growth", "ratio", "summary"]


@dataclass(frozen=True)
class Summary:
    """Median and range of `runs` runs."""

    value: float
    low: float
    high: float
    runs: int


@dataclass(frozen=True)
class Row:
    """A line of the table.

    Attributes
    ----------
    what : str
    value : Summary or None
        None where nothing was measured; `note` says why.
    unit : {"x", "s", "%", "ms", "MB"}
        ``x`` is a ratio.
    target : float or None
        None for a row that is for orientation.
    larger_is_better : bool
        The target is the least, not the most.
    note : str
        The times or bytes behind a ratio.
    """

    what: str
    value: Summary | None
    unit: str = "x"
    target: float | None = None
    larger_is_better: bool = False
    note: str = ""

    @property
    def met(self) -> bool | None:
        """Whether the median keeps the target; None without either."""
        if self.value is None or self.target is None:
            return None
        if self.larger_is_better:
            return self.value.value >= self.target
        return self.value.value <= self.target


def summary(values: Sequence[float]) -> Summary:
    """Summarise one number per run; there is at least one."""
    return Summary(median(values), min(values), max(values), len(values))


def ratio(ours: Sequence[float], theirs: Sequence[float]) -> Summary:
    """Ratio of the medians, with the range of the ratios of runs that were made side by side.

    Parameters
    ----------
    ours, theirs : sequence of float
        One number per run, in the order of the runs.
    """
    pairs = [a / b for a, b in zip(ours, theirs, strict=True)]
    return Summary(median(ours) / median(theirs), min(pairs), max(pairs), len(pairs))


def growth(samples: Sequence[tuple[float, float]], start: float, stop: float) -> float:
    """By which fraction a size grew between `start` and `stop`: medians of the outer fifths.

    Parameters
    ----------
    samples : sequence of (float, float)
        Time and size.
    start, stop : float
        Times.

    Raises
    ------
    ValueError
        There is no sample in one of the fifths.
    """
    fifth = (stop - start) / 5
    first = [size for at, size in samples if start <= at <= start + fifth]
    last = [size for at, size in samples if stop - fifth <= at <= stop]
    if not first or not last:
        raise ValueError("too few samples of memory to tell a growth")
    return median(last) / median(first) - 1
