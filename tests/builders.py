"""Small federations, as the dictionaries a YAML file would hold."""

from __future__ import annotations

from pathlib import Path
from typing import Any

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


def site(dataset: dict[str, Any], *tasks: str, **options: Any) -> dict[str, Any]:
    """A site with that dataset, its labels in columns of the usual names."""
    return {"dataset": dataset, "tasks": {t: {} for t in tasks}, "device": "cpu"} | options


def rows(n: int, split: str = "train", **labels: str | list[str]) -> list[dict[str, str]]:
    """n images of n patients; a label given as a list is dealt out in turn."""
    return [
        {"patient": f"{split}{i}", "split": split}
        | {k: v[i % len(v)] if isinstance(v, list) else v for k, v in labels.items()}
        for i in range(n)
    ]


def study_dict(sites: dict[str, Any], **changes: Any) -> dict[str, Any]:
    """A small study of prognosis; `changes` replace its keys, ``federation`` those inside that."""
    federation = federation_dict(sites=sites, **changes.pop("federation", {}))
    return {
        "name": "small",
        "target": "prognosis",
        "arms": ["local", "pooled", "federated"],
        "federation": federation,
    } | changes
