"""Fixtures that several rooms share: small federations on synthetic data and on no data at all."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from mdmt.config import FederationConfig
from mdmt.messages import SiteCard

torch.set_num_threads(1)

PROGNOSIS = {"kind": "classification", "classes": ["MILD", "SEVERE"]}
SEVERITY = {
    "kind": "regression",
    "outputs": ["A", "B", "C", "D", "E", "F"],
    "range": [0, 3],
    "mirror": {"A": "D", "B": "E", "C": "F"},
}


def federation_dict(**changes: Any) -> dict[str, Any]:
    """A small federation of two tasks; `changes` replace whole sections."""
    return {
        "name": "test",
        "model": {"backbone": "test_resnet", "image_size": 32},
        "tasks": {"prognosis": dict(PROGNOSIS), "severity": dict(SEVERITY)},
        "training": {"rounds": 2, "local_steps": 2, "batch_size": 8},
    } | changes


def synthetic_site(tmp_path: Path, *tasks: str, **dataset: Any) -> dict[str, Any]:
    """A site of drawn radiographs whose files stay below `tmp_path`."""
    return {
        "dataset": {"kind": "synthetic", "patients": 12, "size": 48, "images_per_patient": 1}
        | dataset,
        "tasks": {task: {} for task in tasks},
        "cache_dir": str(tmp_path / "cache"),
        "device": "cpu",
        "workers": 0,
    }


@pytest.fixture
def make_config() -> Callable[..., FederationConfig]:
    """Builder of configurations."""
    return lambda **changes: FederationConfig.model_validate(federation_dict(**changes))


@pytest.fixture
def two_sites(tmp_path: Path) -> dict[str, Any]:
    """Two synthetic sites with different tasks, as a configuration's `sites`."""
    return {
        "clinic": synthetic_site(tmp_path, "severity"),
        "hospital": synthetic_site(tmp_path, "prognosis"),
    }


@pytest.fixture
def make_card() -> Callable[..., SiteCard]:
    """Builder of site cards: ``make_card(config, "a", prognosis=30)``, n_{s,t} by task."""

    def make(config: FederationConfig, name: str, **counts: int) -> SiteCard:
        return SiteCard(
            name=name,
            federation=config.hash,
            tasks={task: config.space(task) for task in counts},
            images={"train": 10, "val": 2, "test": 2},
            counts={task: {"train": n, "val": 0, "test": 0} for task, n in counts.items()},
            histogram={},
            device="cpu",
            versions={},
        )

    return make


@pytest.fixture(scope="session")
def covid_cxr() -> Path:
    """The real radiographs, used in place."""
    default = Path(__file__).parents[2] / "shared" / "data"
    folder = Path(os.environ.get("MDMT_DATA", default)) / "covid-cxr"
    if not folder.is_dir():
        pytest.skip(f"the real radiographs are not at {folder}; set MDMT_DATA to their parent")
    return folder
