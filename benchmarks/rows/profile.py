"""Where the CPU time goes, function by function."""

from __future__ import annotations

import pstats
from pathlib import Path
from typing import Any, cast

from benchmarks.bench import Bench, Figures, Thing
from benchmarks.processes import ROOT, Outcome, job
from benchmarks.rows.figures import column
from benchmarks.summary import Row, summary
from benchmarks.work import Work

__all__ = ["profile"]

_SHOWN = 10
_ROUNDS = 10


def profile(bench: Bench) -> list[Row]:
    """Server and two sites in one process: a round that trains next to nothing, and one that does.

    cProfile counts CPU time of the main thread, from round 2 on. The checkpoint, which is written
    beside it, and waits for the disk do not show; calls of small functions look too dear.
    """
    works = {
        "empty round": Work("resnet18", 32, rounds=_ROUNDS, steps=1, batch=2, evaluated=2),
        "round of 16 steps": Work("resnet18", 64, rounds=3),
    }
    rows = []
    for name, work in works.items():
        folder = bench.work(work, rounds=3, side=32, steps=1, batch=2, evaluated=2)
        rounds = (3 if bench.quick else work.rounds) - 1
        (runs,) = bench.turns({name: _profiled(folder, rounds)}).values()
        dearest = sorted(runs[0], key=runs[0].__getitem__, reverse=True)[:_SHOWN]
        rows += [
            Row(f"{name}: {function}", summary(column(runs, function)), "ms")
            for function in dearest
            if all(function in run for run in runs)
        ]
    return rows


def _profiled(work: Path, rounds: int) -> Thing:
    """Milliseconds per round in each function itself, and in all together."""

    def read(outcome: Outcome, folder: Path) -> Figures:
        # Its type is private: (file, line, name) → calls, ..., seconds in itself, ...
        stats = cast(Any, pstats.Stats(str(folder / "profile"))).stats
        figures = {"all": 1000 * sum(entry[2] for entry in stats.values()) / rounds}
        for (file, _, name), entry in stats.items():
            function = _called(file, name)
            figures[function] = figures.get(function, 0.0) + 1000 * entry[2] / rounds
        return figures

    return Thing(lambda folder: job("jobs.site_round", work, folder / "profile"), read)


def _called(file: str, name: str) -> str:
    """A function as a reader finds it: ours by its file, others by their package's."""
    if not file.startswith(("/", ".")):
        return name.strip("{}<>")
    path = Path(file)
    inside = path.is_relative_to(ROOT) and "site-packages" not in path.parts
    return f"{path.relative_to(ROOT) if inside else '/'.join(path.parts[-2:])} {name}"
