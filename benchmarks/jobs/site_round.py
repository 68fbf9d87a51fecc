"""Rounds of one site as the server sees them: from its message to the reply.

``python -m benchmarks.jobs.site_round FOLDER [PROFILE]``; PROFILE is where cProfile writes what
sites and server did from round 2 to the last.
"""

from __future__ import annotations

import cProfile
import sys
import tempfile
import time
from pathlib import Path

from flwr.app import Context, Message, MessageType, RecordDict

from benchmarks.processes import tell
from benchmarks.work import CONFIG
from client.app import app as client_app
from mdmt.config import load_federation, save_config
from server.app import app as server_app
from server.flower import task_identity
from simulation.engine import InProcessGrid


def main(folder: Path, profile: Path | None) -> None:
    """Run the federation's own server and client here; time each call of the client."""
    config = load_federation(folder / CONFIG)
    profiler = cProfile.Profile(time.process_time)  # other processes must not be seen
    rounds: list[float] = []

    def app(message: Message, context: Context) -> Message:
        kind = message.metadata.message_type
        if profile and kind == MessageType.TRAIN and len(rounds) == len(config.sites):
            profiler.enable()  # until the final test: what the server does between messages too
        if kind == MessageType.EVALUATE:
            profiler.disable()
        started = time.monotonic()
        reply = client_app(message, context)
        if kind == MessageType.TRAIN:
            rounds.append(time.monotonic() - started)
        return reply

    with tempfile.TemporaryDirectory() as name:
        out = Path(name)
        sites = {k: s.model_copy(update={"state_dir": out / k}) for k, s in config.sites.items()}
        save_config(config.model_copy(update={"sites": sites}), out / CONFIG)
        run_config = {"federation": str(out / CONFIG), "overrides": "", "out": str(out / "run")}
        with task_identity():
            server_app(
                InProcessGrid(app, run_config, len(sites)),  # type: ignore[arg-type]
                Context(1, 1, {}, RecordDict(), run_config),  # type: ignore[arg-type]
            )
    if profile:
        profiler.dump_stats(profile)
    tell(rounds=rounds)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]) if len(sys.argv) > 2 else None)
