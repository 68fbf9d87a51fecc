"""What a real federation is compared with: the same one in this process."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import yaml
from flwr.app import Context, Error, Message, MessageType, RecordDict
from real_federation import SITES, RealFederation, dataset
from safetensors.numpy import load_file

from client.app import app as client_app
from mdmt.config import FederationConfig, save_config
from server.app import app as server_app
from simulation.engine import InProcessGrid, task_identity


def expected(
    real: RealFederation,
    out: Path,
    absent: Iterable[tuple[str, int]] = (),
    unheard: Iterable[tuple[str, int]] = (),
) -> Path:
    """The same federation in this process.

    `absent` are sites that do not train in a round; `unheard` train, but their answer is lost.
    """
    settings_ = yaml.safe_load(real.config_file.read_text())
    sites = {
        site: {
            "dataset": dataset(site),
            "tasks": {task: {}},
            "device": "cpu",
            "workers": 0,
            "cache_dir": str(out.parent / "cache"),
            "state_dir": str(out / "sites" / site),
        }
        for site, task in SITES.items()
    }
    config = FederationConfig.model_validate(settings_ | {"sites": sites})
    out.mkdir(parents=True)
    save_config(config, out / "federation.yaml")
    run_config = {"federation": str(out / "federation.yaml"), "overrides": "", "out": str(out)}
    absent, unheard = set(absent), set(unheard)

    def app(message: Message, context: Context) -> Message:
        site = sorted(SITES)[int(context.node_config["partition-id"])]
        if message.metadata.message_type != MessageType.TRAIN:
            return client_app(message, context)
        order = json.loads(str(message.content.config_records["config"]["order"]))
        if (site, order["round"]) not in absent:
            reply = client_app(message, context)
            if (site, order["round"]) not in unheard:
                return reply
        return Message(Error(2, "lost"), reply_to=message)

    with task_identity():
        server_app(
            InProcessGrid(app, run_config, len(SITES)),  # type: ignore[arg-type]
            Context(1, 1, {}, RecordDict(), run_config),
        )
    return out


def backbone(out: Path) -> dict[str, np.ndarray]:
    """The newest checkpoint."""
    return load_file(max((out / "checkpoints").glob("round-*.safetensors")))


def assert_same_result(real: Path, simulated: Path) -> None:
    """Backbone and metrics are equal to the bit."""
    ours, theirs = backbone(real), backbone(simulated)
    assert ours.keys() == theirs.keys()
    different = [name for name in ours if not np.array_equal(ours[name], theirs[name])]
    assert different == []
    metrics = [json.loads((out / "metrics.json").read_text()) for out in (real, simulated)]
    assert metrics[0] == metrics[1]
