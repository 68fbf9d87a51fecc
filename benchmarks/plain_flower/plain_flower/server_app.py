"""The server: Flower's own FedAvg over all clients, and a note of when each round was over."""

from __future__ import annotations

import json
import time
from pathlib import Path

from flwr.app import ArrayRecord, Context, MetricRecord
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg

from .task import build_model, load_work

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Run FedAvg."""
    work = load_work(str(context.run_config["work"]))
    stamps = Path(str(context.run_config["stamps"]))

    def note(**facts: object) -> None:
        with stamps.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(facts) + "\n")

    def over(server_round: int, arrays: ArrayRecord) -> MetricRecord | None:
        note(round=server_round, time=time.time())
        return None

    clients = int(work["sites"])
    strategy = FedAvg(
        min_train_nodes=clients, min_evaluate_nodes=clients, min_available_nodes=clients
    )
    result = strategy.start(
        grid=grid,
        initial_arrays=ArrayRecord(build_model(work).state_dict()),
        num_rounds=int(context.run_config["rounds"]),
        evaluate_fn=over,
    )
    last = result.train_metrics_clientapp[max(result.train_metrics_clientapp)]
    note(done=True, bytes_down=last["bytes-down"], bytes_up=last["bytes-up"])
