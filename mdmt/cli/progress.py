"""Show the progress of a run from its ``events.jsonl``, which every engine writes."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mdmt.cli.console import progress_console
from mdmt.results.runs import format_metric

if TYPE_CHECKING:
    from rich.text import Text

    from mdmt.config import FederationConfig

_POLL_SECONDS = 0.2
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
        self.answered: list[str] = []
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
            self.done, self.answered = event["round"] - 1.0, []
            self.stage = f"round {event['round']} of {event['rounds']}"
        elif kind in ("reply", "answered"):
            self.answered.append(event["site"])
            if kind == "reply":
                self.done += min(1 / max(len(self.sites), 1), int(self.done) + 1 - self.done)
        elif kind == "booked":
            return self._book(event)
        elif kind == "evaluate":
            self.stage, self.answered = f"evaluating round {event['round']}", []
        elif kind == "references":
            self.stage, self.answered = _REFERENCES, []
            return ["computing the references at the sites"]
        elif kind == "refused":
            return [f"refused: {event['site']}: {event['reason']}"]
        return []

    def note_local_rounds(self, reached: dict[str, int]) -> None:
        """Count the rounds that sites have trained alone, if their files are on this machine."""
        if self.stage.startswith(_REFERENCES) and reached:
            self.done = self.rounds + sum(reached.values()) / max(len(self.sites), 1)
            each = ", ".join(f"{site} {number}" for site, number in sorted(reached.items()))
            many = f"{sum(reached.values())} of {len(self.sites) * self.rounds}"
            shown = many if len(self.sites) > _FEW_SITES else f"{each} of {self.rounds}"
            self.stage = f"{_REFERENCES}: local rounds: {shown}"

    def seconds_left(self, now: float) -> float | None:
        """Estimate the remaining seconds from the mean time so far; None before the first reply."""
        if self.started is None or self.done <= self.first:
            return None
        left = max(self.lengths * self.rounds - self.done, 0)
        return (now - self.started) * left / (self.done - self.first)

    def status(self, now: float) -> str:
        """Describe the state of the run in two lines."""
        many = len(self.sites) > _FEW_SITES
        who = f"{len(self.answered)} of {len(self.sites)}" if many else ", ".join(self.answered)
        answered = f"; answered: {who}" if self.answered else ""
        first = f"{self.stage}{answered}  ({self._clock(now)})"
        return f"{first}\n{self.booked}" if self.booked else first

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


def follow(
    path: Path, on_event: Callable[[dict[str, Any]], None], stop: threading.Event, position: int = 0
) -> None:
    """Call `on_event` with every line of a file beyond byte `position`, until `stop` is set."""
    last = False
    while not last:
        last = stop.wait(_POLL_SECONDS)
        if not path.exists():
            continue
        with path.open("rb") as file:
            file.seek(position)
            lines = file.read().splitlines(keepends=True)
        for line in lines:
            if line.endswith(b"\n"):  # the last line may be incomplete
                position += len(line)
                on_event(json.loads(line))


@contextmanager
def watching(folder: Path, config: FederationConfig) -> Iterator[None]:
    """Show the progress of the run in `folder` on standard error while the block runs."""
    console, progress, stop = progress_console(), Progress(config), threading.Event()

    def on_event(event: dict[str, Any]) -> None:
        for line in progress.update(event):
            console.print(line)

    events = folder / "events.jsonl"
    shown = events.stat().st_size if events.exists() else 0  # events of the run that is resumed
    follower = threading.Thread(target=follow, args=(events, on_event, stop, shown), daemon=True)

    from rich.live import Live
    from rich.text import Text

    def status() -> Text:
        if progress.stage.startswith(_REFERENCES):
            progress.note_local_rounds(local_rounds(folder))
        return Text(progress.status(time.time()))

    live = Live(get_renderable=status, console=console, transient=True)
    if console.is_terminal:
        live.start(refresh=True)
    follower.start()
    try:
        yield
    finally:
        stop.set()
        follower.join()
        live.stop()


def duration(seconds: float) -> str:
    """Write a time in minutes and seconds."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"
