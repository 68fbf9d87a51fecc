"""Follow the events of a run while it is written."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

_POLL_SECONDS = 0.2


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
def following(folder: Path, on_event: Callable[[dict[str, Any]], None]) -> Iterator[None]:
    """Call `on_event`, in a thread, with every new event of the run in `folder` during the block.

    At the end of the block all events have been passed on.
    """
    events, stop = folder / "events.jsonl", threading.Event()
    shown = events.stat().st_size if events.exists() else 0  # events of the run that is resumed
    follower = threading.Thread(target=follow, args=(events, on_event, stop, shown), daemon=True)
    follower.start()
    try:
        yield
    finally:
        stop.set()
        follower.join()
