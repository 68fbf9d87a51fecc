"""The files of a simulated run that never ran: predictions are drawn, results follow from them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from builders import PROGNOSIS, SEVERITY, federation_dict, synthetic_site

from mdmt.checkpoints import RoundFiles
from mdmt.compare import paired_differences
from mdmt.config import FederationConfig, save_config
from mdmt.files import write_json
from mdmt.metrics import bootstrap_interval, count_patients, evaluate_task
from mdmt.tasks import Task
from mdmt.tasks.base import FloatArray

RUN = "0" * 12
TASKS = {
    "prognosis": PROGNOSIS | {"title": "Severe course"},
    "severity": SEVERITY,
    "age": {"kind": "regression", "outputs": ["age"], "range": [0, 100], "unit": "years"},
    "findings": {"kind": "multilabel", "labels": ["edema", "effusion", "rare"]},
}
SITES = {"city-hospital": ("prognosis", "findings"), "lung-clinic": ("severity", "age")}
SKILL = {"const": 0.0, "probe": 0.8, "local": 1.0, "best:": 1.2, "last": 1.4}
"""By the first five letters of the model."""
Row = dict[str, Any]


def write_simulated_run(folder: Path, *, patients: int = 60, rounds: int = 4) -> Path:
    """Write a finished run with four tasks at two sites, and every reference."""
    sites = {
        site: synthetic_site(folder, *tasks) | {"state_dir": str(folder / "sites" / site)}
        for site, tasks in SITES.items()
    }
    changes: Row = {"tasks": TASKS, "sites": sites, "references": ["constant", "probe", "local"]}
    config = FederationConfig.model_validate(federation_dict(**changes))
    folder.mkdir(parents=True, exist_ok=True)
    save_config(config, folder / "federation.yaml")
    models = ("last", *(f"best:{task}" for task in TASKS))
    metrics: Row = {
        "format": 1,
        "checkpoints": {
            name: {"round": rounds if name == "last" else 2, "sites": {}, "differences": {}}
            for name in models
        },
        "references": {name: {"sites": {}} for name in config.references},
    }
    for site, tasks in SITES.items():
        _test_site(folder, config, metrics, site, tasks, patients)
    write_json(folder / "metrics.json", metrics)
    release = {"format": 1, "run": RUN, "rounds": dict.fromkeys(TASKS, rounds)}
    write_json(folder / "release" / "release.json", release)
    _write_lines(folder / "history.jsonl", [_history(n, rounds) for n in range(rounds + 1)])
    _write_lines(folder / "events.jsonl", [{"event": "done", "time": 1.0}])
    write_json(folder / "sites.json", {"versions": {"mdmt": "0"}, "sites": _cards(config)})
    return folder


def _test_site(
    folder: Path, config: FederationConfig, metrics: Row, site: str, tasks: Any, patients: int
) -> None:
    """Add the test of every model at a site, and write what its state keeps of the last one."""
    people, tensors = np.array([f"p{k}" for k in range(patients)]), {}
    entries = metrics["checkpoints"] | metrics["references"]
    found: dict[str, Row] = {name: {} for name in entries}
    for task in tasks:
        space = config.space(task)
        rng = np.random.default_rng([len(task), patients])
        targets = _targets(space, rng, patients)
        noise = rng.normal(size=(patients, len(space.prediction_names)))
        drawn = {n: _predict(space, targets, noise, SKILL[n[:5]]) for n in entries}
        for name, predictions in drawn.items():
            values: Row = evaluate_task(space, predictions, targets)
            values |= count_patients(space, targets, people)
            ends = bootstrap_interval(
                space, predictions, targets, people, space.primary, seed=0, resamples=100
            )
            values |= {f"{space.primary}_low": ends[0], f"{space.primary}_high": ends[1]}
            found[name] |= {f"{task}/{key}": value for key, value in values.items()}
        for name in config.references:
            models = {"last": drawn["last"]}
            (one,) = paired_differences(
                space, models, drawn[name], targets, people, seed=0, resamples=100
            ).values()
            keys = (f"{task}/{space.primary}{end}" for end in ("", "_low", "_high"))
            differences = metrics["checkpoints"]["last"]["differences"].setdefault(name, {})
            differences.setdefault(site, {}).update(zip(keys, one, strict=True))
        tensors[f"predictions.{task}"] = torch.from_numpy(drawn["last"])
        tensors[f"targets.{task}"] = torch.from_numpy(targets.astype(np.float32))
    for name, entry in entries.items():
        entry["sites"][site] = {"val": {}, "test": found[name]}
    tensors["patients"] = torch.arange(patients)
    state = folder / "sites" / site / config.name / RUN / "tests"
    RoundFiles(state, {}).save(metrics["checkpoints"]["last"]["round"], tensors)


def _targets(space: Task, rng: np.random.Generator, n: int) -> FloatArray:
    if not space.binary_outputs:
        low, high = space.bounds
        return np.round(rng.uniform(low, high, (n, space.width)))
    share = np.array([0.4, 0.5, 0.05][: space.width])
    return (rng.random((n, space.width)) < share).astype(float)


def _predict(space: Task, targets: FloatArray, noise: FloatArray, skill: float) -> FloatArray:
    """Predictions that are the nearer, the higher the skill; 0 is a constant."""
    low, high = space.bounds
    if not space.binary_outputs:
        middle, half = (low + high) / 2, (high - low) / 2
        drawn = middle + (targets - middle) * skill / 1.5 + noise * half * 0.3 * (skill > 0)
        return np.clip(drawn, low, high)
    truth = space.truth(targets)
    positive = 1 / (1 + np.exp(-((2 * truth - 1) * skill / 1.5 + noise * (skill > 0))))
    if space.exclusive:
        return np.column_stack([1 - positive[:, 1], positive[:, 1]])
    return np.asarray(positive)


def _history(number: int, rounds: int) -> Row:
    share = number / rounds
    sites: Row = {}
    for site, tasks in SITES.items():
        ranks = "prognosis/auroc", "findings/auroc"
        validation = dict.fromkeys(ranks, 0.5 + 0.3 * share)
        validation |= {"severity/mae": 1 - 0.5 * share, "age/mae": 20 - 9 * share}
        validation = {k: v for k, v in validation.items() if k.partition("/")[0] in tasks}
        training: Row = {}
        if number:
            training = {"weight": 0.5, "images": 40, "steps": 4, "seconds": 1.0}
            training |= {"losses": dict.fromkeys(tasks, 1 - 0.5 * share)}
            training |= {"bytes_down": 10**6, "bytes_up": 10**6}
        sites[site] = training | {"validation": validation}
    return {"round": number, "sites": sites, "tasks": {}, "refusals": {}, "seconds": 2.0}


def _cards(config: FederationConfig) -> Row:
    splits = {"train": 120, "val": 40, "test": 60}
    return {
        site: {
            "tasks": {task: config.space(task).model_dump(mode="json") for task in tasks},
            "images": splits,
            "counts": {t: {s: n * config.space(t).width for s, n in splits.items()} for t in tasks},
            "histogram": {},
            "data": "0" * 16,
        }
        for site, tasks in SITES.items()
    }


def _write_lines(file: Path, lines: list[Row]) -> None:
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
