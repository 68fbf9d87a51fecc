"""Rounds of one site as the server sees them: from its message to the reply.

``python -m benchmarks.jobs.site_round FOLDER [PROFILE]``
"""

from __future__ import annotations

import cProfile
import sys
import tempfile
import time
from contextlib import nullcontext
from pathlib import Path

from flwr.app import Context, Message, MessageType, RecordDict

from benchmarks.processes import tell
from benchmarks.work import CONFIG
from client.app import app as client_app
from mdmt.config import load_federation, save_config
from server.app import app as server_app
from simulation.engine import InProcessGrid, task_identity


def main(folder: Path, profile: Path | None) -> None:
    """Run the federation's own server and client here; time each call of the client."""
    config = load_federation(folder / CONFIG)
    profiler = cProfile.Profile()
    rounds: list[float] = []

    def app(message: Message, context: Context) -> Message:
        training = message.metadata.message_type == MessageType.TRAIN
        started = time.monotonic()
        with profiler if profile and training and rounds else nullcontext():  # not the first
            reply = client_app(message, context)
        if training:
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
