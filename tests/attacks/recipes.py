"""The recipes of the attacks: one that a hospital would approve, and changes of it."""

from __future__ import annotations

from typing import Any

from mdmt.config import FederationConfig

TASK = "prognosis"


def federation(**changes: Any) -> FederationConfig:
    """An ordinary federation for hospitals with few patients: one epoch, batches of 32."""
    return FederationConfig.model_validate(
        {
            "name": "covid",
            "model": {"backbone": "test_resnet", "image_size": 32},
            "tasks": {TASK: {"kind": "classification", "classes": ["MILD", "SEVERE"]}},
            "augmentation": {"p": 0},
            "training": {"rounds": 3, "batch_size": 32, "optimizer": {"name": "sgd", "lr": 0.05}},
            "aggregation": {"weighting": "uniform", "norm_layers": "frozen"},
        }
        | changes
    )


def one_image(**optimizer: Any) -> dict[str, Any]:
    """The section `training` whose update rests on one image."""
    sgd = {"name": "sgd", "lr": 0.05, "momentum": 0} | optimizer
    return {"rounds": 20, "local_steps": 1, "batch_size": 1, "optimizer": sgd}
