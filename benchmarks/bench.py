"""Preparing work, and running what is compared in turns."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from benchmarks.processes import Outcome, job, run
from benchmarks.work import Work, write_work

__all__ = ["Bench", "Thing"]

Figures = dict[str, Any]


@dataclass(frozen=True)
class Thing:
    """Something to measure.

    Attributes
    ----------
    command : callable
        Gives its command line; called with a folder for what it writes.
    read : callable
        Gives what counts of an outcome; called with that folder too, which is then deleted.
    """

    command: Callable[[Path], Sequence[str]]
    read: Callable[[Outcome, Path], Figures]


class Bench:
    """One benchmark.

    Parameters
    ----------
    scratch : Path
        Everything is written below it.
    repeats : int
        Runs of each thing.
    quick : bool
        Tiny settings, to see that everything works: the figures mean nothing.
    say : callable
        Told what is going on.
    """

    def __init__(
        self, scratch: Path, repeats: int, quick: bool, say: Callable[[str], None]
    ) -> None:
        self.scratch, self.repeats, self.quick, self.say = scratch, repeats, quick, say
        self._prepared: dict[Work, Path] = {}

    def work(self, work: Work, **quick: Any) -> Path:
        """Folder of a prepared work; `quick` are the fields that make it tiny."""
        if self.quick:
            work = replace(work, **quick)
        if work not in self._prepared:
            self.say(f"preparing {work.sites} sites, {work.backbone} at {work.side} px")
            folder = self.scratch / f"work-{len(self._prepared)}"
            write_work(work, folder)
            run(job("jobs.prepare", folder), folder / "prepare")
            self._prepared[work] = folder
        return self._prepared[work]

    def turns(
        self, things: Mapping[str, Thing], repeats: int | None = None
    ) -> dict[str, list[Figures]]:
        """Run all things, again and again in the same order, so that they share good and bad times.

        Parameters
        ----------
        things : mapping of str to Thing
        repeats : int, optional
            Instead of the benchmark's own.

        Returns
        -------
        dict of str to list
            What each run of each thing gave, in the order of the runs.
        """
        times = 1 if self.quick else repeats or self.repeats
        figures: dict[str, list[Figures]] = {name: [] for name in things}
        for number in range(times):
            for name, thing in things.items():
                folder = self.scratch / "now"
                outcome = run(thing.command(folder), folder)
                figures[name].append(thing.read(outcome, folder))
                shutil.rmtree(folder)
                self.say(f"{name}: run {number + 1} of {times}, {outcome.seconds:.1f} s")
        return figures
