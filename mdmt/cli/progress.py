"""Show the progress of a run from its ``events.jsonl``, which every engine writes."""

from __future__ import annotations

import textwrap
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mdmt.cli.console import progress_console
from mdmt.results.events import following
from mdmt.results.runs import format_metric

if TYPE_CHECKING:
    from mdmt.config import FederationConfig

_BAR = 20
"""Columns of the progress bar."""
_FEW_SITES = 8
"""Largest number of sites that are named in a line."""
_REFERENCES = "references"


class Progress:
    """The state of a run, from its events.

    Parameters
    ----------
    config : FederationConfig
    """

    def __init__(self, config: FederationConfig) -> None:
        self.sites = sorted(config.sites)
        self.rounds = config.training.rounds
        # The local reference trains every site again, which takes about as long as the federation.
        self.lengths = 2 if "local" in config.references else 1
        self.primary = {name: task.space.primary for name, task in config.tasks.items()}
        self.started: float | None = None
        self.stage = "starting"
        self.states: dict[str, str] = {}
        self.booked = ""
        self.done = 0.0
        self.first = 0

    def update(self, event: dict[str, Any]) -> list[str]:
        """Process an event. Return the lines that stay on the screen."""
        kind = event["event"]
        if kind == "registration" and event["sites"]:
            self.sites = event["sites"]
        elif kind == "joined":
            self.stage = "registration"
            return [f"{event['site']} joined"]
        elif kind == "notice":
            return [event["message"]]
        elif kind == "resumed":
            self.done = self.first = event["round"]
            return [f"resumed after round {event['round']}"]
        elif kind == "round":
            self.started = self.started or event["time"]
            self.done = event["round"] - 1.0
            self._begin(f"round {event['round']} of {event['rounds']}", "training")
        elif kind in ("reply", "answered"):
            self.states[event["site"]] = "done"
            if kind == "reply":
                self.done += min(1 / max(len(self.sites), 1), int(self.done) + 1 - self.done)
        elif kind == "booked":
            return self._book(event)
        elif kind == "evaluate":
            self._begin(f"test of round {event['round']}", "testing")
        elif kind == "references":
            self._begin(_REFERENCES, "at work")
            return ["computing the references at the sites"]
        elif kind == "refused":
            self.states[event["site"]] = "refused"
            return [f"refused: {event['site']}: {event['reason']}"]
        return []

    def note_local_rounds(self, reached: dict[str, int]) -> None:
        """Count the rounds that sites have trained alone, if their files are on this machine."""
        if self.stage == _REFERENCES and reached:
            self.done = self.rounds + sum(reached.values()) / max(len(self.sites), 1)
            for site, number in reached.items():
                if self.states.get(site) != "done":
                    self.states[site] = f"local round {number} of {self.rounds}"

    def seconds_left(self, now: float) -> float | None:
        """Estimate the remaining seconds from the mean time so far; None before the first reply."""
        if self.started is None or self.done <= self.first:
            return None
        left = max(self.lengths * self.rounds - self.done, 0)
        return (now - self.started) * left / (self.done - self.first)

    @property
    def fraction(self) -> float:
        """How much of the run is done, from 0 to 1."""
        return min(self.done / max(self.lengths * self.rounds, 1), 1.0)

    def headline(self, now: float) -> str:
        """Name the stage and the time; short enough to stand beside the bar."""
        return f"{self.stage}, {self._clock(now)}"

    def details(self, width: int) -> list[str]:
        """Describe each site, then the last validation, in lines of at most `width` columns."""
        states = [f"{site}: {state}" for site, state in sorted(self.states.items())]
        if len(self.sites) > _FEW_SITES:
            counts = Counter(self.states.values())
            states = [f"{number} sites {state}" for state, number in sorted(counts.items())]
        return [*wrap("   ".join(states), width), *wrap(self.booked, width)]

    def _begin(self, stage: str, state: str) -> None:
        """Start a stage, in which every site has this state until it answers."""
        self.stage, self.states = stage, dict.fromkeys(self.sites, state)

    def _book(self, event: dict[str, Any]) -> list[str]:
        values = [
            f"{task} {metric} {format_metric(event['tasks'], f'{task}/{metric}')}"
            for task, metric in self.primary.items()
        ]
        self.booked = f"round {event['round']}/{self.rounds} validation: {', '.join(values)}"
        refusals = [
            f"refused: {site}, round {event['round']}: {reason}"
            for site, reason in event["refusals"].items()
        ]
        return [*refusals, f"{self.booked}  ({self._clock(event['time'])})"]

    def _clock(self, now: float) -> str:
        if self.started is None:
            return "no round yet"
        left = self.seconds_left(now)
        estimate = "" if left is None else f", about {duration(left)} left"
        return f"{duration(now - self.started)} elapsed{estimate}"


def local_rounds(folder: Path) -> dict[str, int]:
    """Return the rounds that each site has trained alone; empty if sites are on other machines."""
    reached: dict[str, int] = {}
    for file in folder.glob("sites/*/*/*/local/round-*.safetensors"):
        site, number = file.parts[-5], int(file.stem.removeprefix("round-"))
        reached[site] = max(number, reached.get(site, 0))
    return reached


@contextmanager
def watching(folder: Path, config: FederationConfig) -> Iterator[None]:
    """Show the progress of the run in `folder` on standard error while the block runs."""
    console, progress = progress_console(), Progress(config)

    def on_event(event: dict[str, Any]) -> None:
        for line in progress.update(event):
            parts = wrap(line, console.width) if console.is_terminal else [line]
            for part in parts:
                console.print(part)

    from rich.console import Group
    from rich.live import Live
    from rich.progress_bar import ProgressBar
    from rich.table import Table
    from rich.text import Text

    def status() -> Group:
        if progress.stage == _REFERENCES:
            progress.note_local_rounds(local_rounds(folder))
        now, first = time.time(), Table.grid(padding=(0, 1))
        bar = ProgressBar(total=1.0, completed=progress.fraction, width=_BAR)
        first.add_row(bar, Text(progress.headline(now), no_wrap=True, overflow="ellipsis"))
        return Group(first, *map(Text, progress.details(console.width)))

    live = Live(get_renderable=status, console=console, transient=True)
    if console.is_terminal:
        live.start(refresh=True)
    try:
        with following(folder, on_event):
            yield
    finally:
        live.stop()


def wrap(line: str, width: int) -> list[str]:
    """Break a line between words; later parts are indented."""
    return textwrap.wrap(line, width, subsequent_indent="  ", break_on_hyphens=False)


def duration(seconds: float) -> str:
    """Write a time in hours and minutes, or in minutes and seconds."""
    minutes, rest = divmod(round(seconds), 60)
    if minutes >= 60:
        return f"{minutes // 60} h {minutes % 60} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"
