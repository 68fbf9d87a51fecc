"""The files of a study that was never run: predictions are drawn, results follow from them."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from builders import federation_dict

from mdmt.config import FederationConfig
from mdmt.metrics import evaluate_task

ARMS = ("constant", "metadata", "local", "pooled", "federated")
SKILL = {"constant": 0.0, "metadata": 0.6, "local": 1.0, "pooled": 1.4, "federated": 1.3}
SITES = {"hospital": "prognosis", "clinic": "severity"}
PATIENTS = 40
SECRET = "Pat-7Q"
"""Begins every patient id and image name: neither may come into a report."""

Row = dict[str, Any]


def write_study(
    folder: Path,
    *,
    arms: tuple[str, ...] = ARMS,
    backbones: tuple[str, ...] = ("resnet18",),
    folds: int = 3,
    seeds: int = 2,
    **facts: Any,
) -> Path:
    """Write a finished study; `facts` replace entries of ``study.json``."""
    config = FederationConfig.model_validate(federation_dict())
    results: list[Row] = []
    predictions: list[Row] = []
    for names in _grid(arms, backbones, folds, seeds):
        for site, task in SITES.items():
            where = names | {"site": site, "task": task}
            metrics, rows = _test(config, where)
            results += [where | {"metric": m, "value": v, "n": n} for m, v, n in metrics]
            predictions += rows
        _write_cell(folder, names, results)
    write_csv(folder / "results.csv", results)
    write_csv(folder / "predictions.csv", predictions)
    write_facts(folder, config, arms, backbones, folds, seeds, **facts)
    write_statistics(folder, arms, backbones)
    return folder


def write_csv(file: Path, rows: list[Row]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("w", newline="") as stream:
        writer = csv.DictWriter(stream, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def write_facts(
    folder: Path,
    config: FederationConfig,
    arms: tuple[str, ...],
    backbones: tuple[str, ...],
    folds: int,
    seeds: int,
    **facts: Any,
) -> None:
    """``study.json``, with paths where a study's configuration has them."""
    federation = config.model_dump(mode="json")
    federation["sites"] = {s: {"dataset": {"root": f"/secret/place/{s}"}} for s in SITES}
    counts = {
        "hospital": {"prognosis": {"": {"MILD": 30, "SEVERE": 10}}},
        "clinic": {"severity": {zone: dict.fromkeys("0123", 10) for zone in "ABCDEF"}},
    }
    described = {s: {"images": 40, "patients": 40, "labels": counts[s]} for s in SITES}
    splits = {s: dict.fromkeys(("train", "val", "test"), described[s]) for s in SITES}
    config_of_study = {
        "name": "drawn",
        "target": "prognosis",
        "arms": [{"kind": arm, "name": None} for arm in arms],
        "backbones": [{"backbone": backbone} for backbone in backbones],
        "seeds": list(range(seeds)),
        "federation": federation,
    }
    data = {
        "seeds": [0, 1],
        "sites": {s: {"data": f"{s[:4]}0000"} | described[s] for s in SITES},
        "folds": [{"fold": f"fold {k}", "sites": splits} for k in range(folds)],
    }
    study = {
        "format": 1,
        "name": "drawn",
        "config": config_of_study,
        "versions": {"python": "3.11", "mdmt": "0.1.0"},
        "data": [data],
        "caveats": ["the sites are drawn"],
    }
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "study.yaml").write_text(yaml.safe_dump(config_of_study))
    (folder / "study.json").write_text(json.dumps(study | facts))


def write_statistics(folder: Path, arms: tuple[str, ...], backbones: tuple[str, ...]) -> None:
    """``statistics.json`` with one test of each kind: federated against local at the hospital."""
    families = [*backbones, "all"] if len(backbones) > 1 else backbones
    where = {"site": "hospital", "task": "prognosis"}
    pair = {"arm_a": "local", "arm_b": "federated"}  # the differences are local - federated
    paired = {"n": 6, "difference": -0.1, "p_t_holm": 0.0321, "p_w_holm": 0.0625, "d_z": -1.25}
    delong = {"difference": -0.08, "low": -0.15, "high": -0.01, "p": 0.021, "p_holm": 0.2}
    interval = {"metric": "auroc", "value": 0.9, "low": 0.8, "high": 0.95}
    counts = {"images": 120, "patients": 120}
    tables = {
        "paired": [{"backbone": family} | where | pair | paired for family in families],
        "delong": [
            {"backbone": backbone, "seed": 0, "output": "SEVERE"} | where | pair | delong | counts
            for backbone in backbones
        ],
        "intervals": [
            {"backbone": backbone, "seed": 0, "arm": arm} | where | interval | counts
            for backbone in backbones
            for arm in arms
        ],
    }
    units = {"paired": "cells", "delong": "patients", "intervals": "patients"}
    statistics = {name: {"unit": units[name], "rows": rows} for name, rows in tables.items()}
    (folder / "statistics.json").write_text(json.dumps({"format": 1} | statistics))


def _grid(
    arms: tuple[str, ...], backbones: tuple[str, ...], folds: int, seeds: int
) -> Iterator[Row]:
    for arm in arms:
        for backbone in backbones:
            for fold in range(folds):
                for seed in range(seeds):
                    yield {"arm": arm, "backbone": backbone, "fold": f"fold {fold}", "seed": seed}


def _test(
    config: FederationConfig, where: Row
) -> tuple[list[tuple[str, float | int | None, int]], list[Row]]:
    """Metrics and predictions of a fold's patients; the better the arm's skill, the nearer."""
    fold = int(where["fold"][-1])
    people = np.random.default_rng([fold, len(where["task"])])  # the same in every arm and seed
    noise = np.random.default_rng([ARMS.index(where["arm"]), fold, where["seed"]])
    space, skill = config.space(where["task"]), SKILL[where["arm"]]
    if where["task"] == "prognosis":
        truth = people.integers(0, 2, (PATIENTS, 1)).astype(float)
        logit = skill * (2 * truth - 1) + (noise.normal(size=truth.shape) if skill else 0)
        positive = 1 / (1 + np.exp(-logit))
        predicted, shown = np.hstack([1 - positive, positive]), ["SEVERE"]
        targets = np.tile(truth, (1, 2))
    else:
        truth = people.integers(0, 4, (PATIENTS, 6)).astype(float)
        predicted = np.clip(
            1.5 + skill / 1.5 * (truth - 1.5) + 0.5 * noise.normal(size=(40, 6)), 0, 3
        )
        targets, shown = truth, list(space.labels)
    measured = evaluate_task(space, predicted, truth)
    n = int(measured.pop("examples") or 0)
    names = list(space.prediction_names)
    rows = [
        where
        | {
            "image": f"{SECRET}-{fold}-{k}.png",
            "patient": f"{SECRET}-{fold}-{k}",
            "output": output,
            "target": targets[k, names.index(output)],
            "prediction": predicted[k, names.index(output)],
        }
        for k in range(PATIENTS)
        for output in shown
    ]
    return [(name, value, n) for name, value in measured.items()], rows


def _write_cell(folder: Path, names: Row, results: list[Row]) -> None:
    """``cell.json`` and the history of an arm that learns in rounds."""
    fold = names["fold"].replace(" ", "-")
    cell = folder / "cells" / names["arm"] / names["backbone"] / fold / f"seed-{names['seed']}"
    cell.mkdir(parents=True)
    own = [row for row in results if names.items() <= row.items()]
    facts = names | {"results": own, "steps": {"hospital": 12}, "seconds": 1.5}
    (cell / "cell.json").write_text(json.dumps(facts))
    learns = names["arm"] not in ("constant", "metadata")
    lines = []
    for number in range(1, 7) if learns else ():
        auroc, mae = 0.5 + 0.05 * number + 0.01 * names["seed"], 0.9 - 0.1 * number
        sites = {
            "hospital": {"validation": {"prognosis/auroc": auroc}},
            "clinic": {"validation": {"severity/mae": mae}},
        }
        tasks = {"prognosis/auroc": auroc, "severity/mae": mae}
        lines.append({"round": number, "sites": sites, "tasks": tasks})
    (cell / "history.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
