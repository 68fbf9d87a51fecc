"""Fixtures of whole federations."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from builders import study_dict, synthetic_site
from cli_builders import patients, table_site, write_rows
from flwr.app import Context, Message, RecordDict
from PIL import Image

from client.app import app as client_app
from mdmt.config import FederationConfig, save_config
from server.app import app as server_app
from simulation.engine import InProcessGrid, task_identity
from simulation.study.config import StudyConfig, load_study

Tamper = Callable[[int, Message, Message], Message]


def run_federation(config: FederationConfig, out: Path, tamper: Tamper | None = None) -> Path:
    """Run a federation in process; `tamper` may change a site's (by number) reply to a message."""
    out.mkdir(parents=True)
    sites = {
        name: site.model_copy(update={"state_dir": site.state_dir or out / "sites" / name})
        for name, site in config.sites.items()
    }
    file = out / "federation.yaml"
    save_config(config.model_copy(update={"sites": sites}), file)
    run_config = {"federation": str(file), "overrides": "", "out": str(out)}
    app: Any = client_app
    if tamper is not None:

        def app(message: Message, context: Context) -> Message:
            number = int(context.node_config["partition-id"])
            return tamper(number, message, client_app(message, context))

    server = Context(1, 1, {}, RecordDict(), run_config)
    with task_identity():
        grid = InProcessGrid(app, run_config, len(sites))
        server_app(grid, server)
    return out


@pytest.fixture
def federate(tmp_path: Path) -> Callable[..., Path]:
    """Run federations in numbered folders."""
    runs = iter(range(100))
    return lambda config, tamper=None: run_federation(
        config, tmp_path / f"run-{next(runs)}", tamper
    )


@pytest.fixture
def write_table(tmp_path: Path) -> Callable[..., dict[str, Any]]:
    """Write a folder of PNG radiographs with a table; give the site's `dataset`."""

    def write(name: str, rows: list[dict[str, str]], size: int = 40) -> dict[str, Any]:
        root = tmp_path / name
        (root / "images").mkdir(parents=True)
        rng = np.random.default_rng(sum(map(ord, name)))
        for number, row in enumerate(rows):
            row.setdefault("image", f"images/{number}.png")
            Image.fromarray(rng.integers(0, 255, (size, size), np.uint8)).save(root / row["image"])
        with (root / "labels.csv").open("w", newline="") as stream:
            writer = csv.DictWriter(stream, fieldnames=list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
        return {"kind": "table", "root": str(root), "patient": "patient", "split": "split"}

    return write


@pytest.fixture
def load(tmp_path: Path) -> Callable[..., StudyConfig]:
    """Write a study's YAML and load it."""

    def write(**changes: Any) -> StudyConfig:
        sites = changes.pop("sites", None) or {
            "clinic": synthetic_site(tmp_path, "severity", patients=20),
            "hospital": synthetic_site(tmp_path, "prognosis", patients=20),
        }
        file = tmp_path / "study.yaml"
        file.write_text(yaml.safe_dump(study_dict(sites, **changes)))
        return load_study(file)

    return write


@pytest.fixture
def tables(tmp_path: Path) -> dict[str, Any]:
    """Two sites with tables of PNG radiographs, ages and sexes."""

    def site(name: str, task: str) -> dict[str, Any]:
        rows = [
            row | {"age": str(40 + number), "sex": "MF"[number % 2] if number % 5 else ""}
            for number, row in enumerate(patients(16))
        ]
        write_rows(tmp_path / name, rows)
        made = table_site(tmp_path / name, task)
        made["dataset"]["metadata"] = ["age", "sex"]
        return made

    return {"clinic": site("clinic", "severity"), "hospital": site("hospital", "prognosis")}
