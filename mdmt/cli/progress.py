"""Progress of a run, read from the ``events.jsonl`` that every engine writes."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mdmt.config import FederationConfig

__all__ = ["Progress", "duration", "follow", "watching"]

_POLL_SECONDS = 0.2
_FEW_SITES = 8
"""So many are named in a line."""
_ALONE = "local-only references"


class Progress:
    """What is known of a run under way.

    Parameters
    ----------
    config : FederationConfig
    """

    def __init__(self, config: FederationConfig) -> None:
        self.sites = sorted(config.sites)
        self.rounds = config.training.rounds
        # The local-only reference trains every site once more: about as long as the federation.
        self.lengths = 2 if "local" in config.references else 1
        self.primary = {name: task.space.primary for name, task in config.tasks.items()}
        self.started: float | None = None
        self.now = 0.0
        self.stage = "starting"
        self.answered: list[str] = []
        self.booked = ""
        self.alone: dict[str, int] = {}
        self.done = 0.0
        self.first = 0

    def update(self, event: dict[str, Any]) -> list[str]:
        """Take an event in and return the lines that deserve to stay on the screen."""
        self.now = event["time"]
        kind = event["event"]
        if kind == "roll call" and event["sites"]:
            self.sites = event["sites"]
        if kind == "joined":
            self.stage = "roll call"
            return [f"{event['site']} joined"]
        if kind == "notice":
            return [event["message"]]
        if kind == "resumed":
            self.done = self.first = event["round"]
            return [f"resumed after round {event['round']}"]
        if kind == "round":
            return self._round(event)
        if kind == "reply":
            self._reply(event)
        elif kind == "booked":
            return self._book(event)
        elif kind == "evaluate" and event["arm"] == "federated":
            self.stage, self.answered = f"evaluating round {event['round']}", []
        elif kind == "refused":
            return [f"refused: {event['site']}: {event['reason']}"]
        return []

    def seconds_left(self, now: float) -> float | None:
        """Estimate from the mean time of what is done; None before the first reply."""
        if self.started is None or self.done <= self.first:
            return None
        left = max(self.lengths * self.rounds - self.done, 0)
        return (now - self.started) * left / (self.done - self.first)

    def status(self, now: float) -> str:
        """Say in two lines where the run is."""
        many = len(self.sites) > _FEW_SITES
        who = f"{len(self.answered)} of {len(self.sites)}" if many else ", ".join(self.answered)
        answered = f"; answered: {who}" if self.answered else ""
        first = f"{self.stage}{answered}  ({self._clock(now)})"
        return f"{first}\n{self.booked}" if self.booked else first

    def _round(self, event: dict[str, Any]) -> list[str]:
        self.started = self.started or event["time"]
        number, self.answered = event["round"], []
        if event["arm"] == "federated":
            self.done = number - 1.0
            self.stage = f"round {number} of {event['rounds']}"
        elif not self.stage.startswith(_ALONE):
            self.stage = _ALONE
            return [self.stage]
        return []

    def _reply(self, event: dict[str, Any]) -> None:
        share = 1 / max(len(self.sites), 1)
        if event["arm"] == "federated":
            self.answered.append(event["site"])
            self.done += min(share, int(self.done) + 1 - self.done)
            return
        self.done += share
        self.alone[event["site"]] = event["round"]
        if len(self.sites) > _FEW_SITES:
            rounds = f"{sum(self.alone.values())} of {len(self.sites) * self.rounds} rounds"
        else:
            each = ", ".join(f"{site} {number}" for site, number in sorted(self.alone.items()))
            rounds = f"{each} of {self.rounds} rounds"
        self.stage = f"{_ALONE}: {rounds}"

    def _book(self, event: dict[str, Any]) -> list[str]:
        values = [
            f"{task} {metric} {_number(event['tasks'].get(f'{task}/{metric}'))}"
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


def follow(
    path: Path,
    on_event: Callable[[dict[str, Any]], None],
    stop: threading.Event,
    position: int = 0,
) -> None:
    """Hand over every line of a JSON-lines file beyond byte `position`, until `stop` is set."""
    last = False
    while not last:
        last = stop.wait(_POLL_SECONDS)
        if not path.exists():
            continue
        with path.open("rb") as file:
            file.seek(position)
            lines = file.read().splitlines(keepends=True)
        for line in lines:
            if line.endswith(b"\n"):  # the writer may be in the middle of one
                position += len(line)
                on_event(json.loads(line))


@contextmanager
def watching(folder: Path, config: FederationConfig) -> Iterator[None]:
    """Show the progress of the run in `folder` on standard error while the block runs."""
    from rich.live import Live
    from rich.text import Text

    from mdmt.cli.console import progress_console

    console, progress, stop = progress_console(), Progress(config), threading.Event()

    def on_event(event: dict[str, Any]) -> None:
        for line in progress.update(event):
            console.print(line)

    events = folder / "events.jsonl"
    told = events.stat().st_size if events.exists() else 0  # by a run that is resumed now
    follower = threading.Thread(target=follow, args=(events, on_event, stop, told), daemon=True)
    live = Live(
        get_renderable=lambda: Text(progress.status(time.time())),
        console=console,
        transient=True,
    )
    if console.is_terminal:
        live.start(refresh=True)
    follower.start()
    try:
        yield
    finally:
        stop.set()
        follower.join()
        live.stop()


def _number(value: float | None) -> str:
    return "undefined" if value is None else f"{value:.3f}"


def duration(seconds: float) -> str:
    """Write a time in minutes and seconds."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"
