"""``mdmt study``: compare arms over backbones, folds and seeds."""

from __future__ import annotations

import shlex
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mdmt.cli.console import Overrides, progress_console, show_results
from mdmt.cli.progress import duration

if TYPE_CHECKING:
    from mdmt.errors import MDMTError
    from simulation.study.cells import Cell
    from simulation.study.runner import Saved

TIME_OVER = 3
"""Exit code of a study that stopped because its time was over."""


def study(
    config: Annotated[str, typer.Argument(help="Study YAML, or the name of one in the package.")],
    set_: Overrides = None,
    out: Annotated[
        Path | None,
        typer.Option(help="Folder of a new or interrupted study.", show_default="studies/NAME"),
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option(
            min=0, help="Cells at a time; 0: in this process.", show_default="one per GPU, or core"
        ),
    ] = None,
    max_minutes: Annotated[
        float | None,
        typer.Option(min=0, help="Start no cell that would end later.", show_default="no limit"),
    ] = None,
) -> None:
    """Run a study, or continue an interrupted one; then show its main tables.

    The exit code is 3 if cells remain because of --max-minutes; the same command continues.
    """
    from mdmt.config import find_config

    console = progress_console()
    with console.status("starting") as status:
        from simulation.study.config import load_study
        from simulation.study.runner import run_study
        from simulation.workers import count_places

        loaded = load_study(find_config(config, "study"), set_ or ())
        folder = out or Path("studies") / loaded.name
        workers = count_places(loaded.federation) if workers is None else workers
        progress = StudyProgress(workers)

        def show(line: str) -> None:
            console.print(line, markup=False)
            status.update(progress.status(time.monotonic()))

        console.print(f"reading the data of {', '.join(sorted(loaded.federation.sites))}")
        finished = run_study(
            loaded,
            folder,
            workers=workers,
            max_minutes=max_minutes,
            watch=lambda site, done, n: status.update(f"{site}: image {done} of {n}"),
            on_plan=lambda finished, cells: show(
                f"running in {folder}: {progress.plan(finished, cells)}"
            ),
            on_cell=lambda saved: show(progress.book(saved)),
            on_fail=lambda cell, error: show(progress.drop(cell, error)),
        )
    if left := progress.total - len(finished):
        again = ["mdmt", "study", config, *(f"--set={one}" for one in set_ or ())]
        command = shlex.join([*again, "--out", str(folder), "--workers", str(workers)])
        parts = loaded.development or len(loaded.train_fraction) > 1
        where = " in this part of the study" if parts else ""
        typer.echo(f"Stopped: {left} of {progress.total} cells remain{where}. Next:  {command}")
        raise typer.Exit(TIME_OVER)
    from mdmt.cli.show import study_tables

    show_results(*study_tables(folder))
    typer.echo(f"Study: {folder}")
    typer.echo(f"Next:  mdmt report {folder}")


class StudyProgress:
    """Progress of a study, and an estimate of the remaining time.

    Parameters
    ----------
    workers : int
        Cells at a time.
    """

    def __init__(self, workers: int) -> None:
        self.workers = max(workers, 1)
        self.started = time.monotonic()
        self.total = 0
        self.done = 0
        self.waiting: list[str] = []
        """Arm of each cell that is not finished."""
        self.seconds: dict[str, list[float]] = {}
        """Arm → seconds of its finished cells."""

    def plan(self, finished: Sequence[Saved], cells: Sequence[Cell]) -> str:
        """Count all cells and the finished ones. Return a line with both numbers."""
        self.total, self.done = len(cells), 0
        self.waiting = [cell.arm.label for cell in cells]
        for one in finished:
            self._take(one)
        begun = f", {self.done} finished before" if self.done else ""
        return f"{self.total} cells, {self.workers} at a time{begun}"

    def book(self, saved: Saved) -> str:
        """Count a finished cell; return a line that says how long it took."""
        self._take(saved)
        name = f"{saved['arm']} {saved['backbone']} fold {saved['fold']} seed {saved['seed']}"
        took = f"{saved['seconds']:.0f} s{self._left()}"
        return f"cell {self.done} of {self.total}: {name} in {took}"

    def drop(self, cell: Cell, error: MDMTError) -> str:
        """Remove a failed cell from the estimate. Return a line with the reason."""
        self.waiting.remove(cell.arm.label)
        return f"failed: {error}"

    def seconds_left(self) -> float | None:
        """Estimate from cells of the same arm, or of all arms; None before the first cell."""
        known = [value for values in self.seconds.values() for value in values]
        if not known:
            return None
        mean = sum(known) / len(known)
        means = {arm: sum(values) / len(values) for arm, values in self.seconds.items()}
        return sum(means.get(arm, mean) for arm in self.waiting) / self.workers

    def status(self, now: float) -> str:
        """Return a line with the cells that are finished, and the time."""
        elapsed = duration(now - self.started)
        return f"{self.done} of {self.total} cells  ({elapsed} elapsed{self._left()})"

    def _left(self) -> str:
        left = self.seconds_left()
        return "" if left is None else f", about {duration(left)} left"

    def _take(self, saved: Saved) -> None:
        self.waiting.remove(saved["arm"])
        self.done += 1
        self.seconds.setdefault(saved["arm"], []).append(saved["seconds"])
