"""What several comparisons share."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from statistics import median

from benchmarks.bench import Figures, Thing
from benchmarks.processes import Outcome, job
from benchmarks.summary import Row, ratio

__all__ = ["bare", "column", "pair_row", "rounds_of", "stock"]


def column(figures: Sequence[Figures], name: str) -> list[float]:
    """One figure of every run."""
    return [float(run[name]) for run in figures]


def rounds_of(outcome: Outcome, folder: Path) -> Figures:
    """Median seconds of the rounds that a job told, without the first, which warms up."""
    return {"round": median(outcome.said["rounds"][1:])}


def bare(work: Path, *threads: str) -> Thing:
    """The bare loop: ``seconds``, ``peak``, ``round``, ``threads``."""
    return Thing(
        lambda folder: job("bare", work, *threads),
        lambda outcome, folder: {
            "seconds": outcome.seconds,
            "peak": outcome.peak,
            "threads": outcome.said["threads"],
            **rounds_of(outcome, folder),
        },
    )


def stock(kind: str, work: Path, rounds: int, steps: int) -> Thing:
    """The stock Flower app: ``seconds``, ``peak``, ``start``, ``round``, ``bytes``."""

    def read(outcome: Outcome, folder: Path) -> Figures:
        ends = outcome.said["ends"]  # the first is before round 1
        return {
            "seconds": outcome.seconds,
            "peak": outcome.peak,
            "start": ends[0] - outcome.started,
            "round": median([b - a for a, b in pairwise(ends)][1:]),
            "bytes": outcome.said["bytes_down"] + outcome.said["bytes_up"],
        }

    return Thing(lambda folder: job("jobs.stock", kind, work, rounds, steps), read)


def pair_row(
    what: str,
    ours: Sequence[Figures],
    theirs: Sequence[Figures],
    figure: str,
    target: float | None,
    note: str = "",
) -> Row:
    """A row that compares one figure of two things: seconds, or bytes."""
    a, b = column(ours, figure), column(theirs, figure)
    unit, scale = ("MB", 1e-6) if figure in ("peak", "bytes") else ("s", 1.0)
    behind = f"{median(a) * scale:.4g} {unit} / {median(b) * scale:.4g} {unit}"
    return Row(what, ratio(a, b), target=target, note="; ".join(filter(None, [behind, note])))
