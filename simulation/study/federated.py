"""The federated arm: the real server and client, in this process, then each site's own heads.

Predictions of single images are made here, where all sites are on one machine; the messages
between server and sites are those of any federation, and carry none.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from client.site import kept_tensors
from mdmt.config import FederationConfig
from mdmt.errors import StateError
from mdmt.models import MDMTModel, build_model, head_task, load_staying, set_arrays
from mdmt.releases import open_release
from server.run import RunDirectory
from simulation.simulate import simulate
from simulation.study.config import StudyConfig
from simulation.study.kinds import Federated

__all__ = ["FederatedRun", "federated_models"]


@dataclass(frozen=True)
class FederatedRun:
    """A finished federation.

    Attributes
    ----------
    models : iterator of (str, str, MDMTModel)
        Site, task and the model that the site would use for it.
    history : list of dict
        Lines of ``history.jsonl``.
    steps : dict of str to int
        Optimiser steps of each site.
    """

    models: Iterator[tuple[str, str, MDMTModel]]
    history: list[dict[str, Any]]
    steps: dict[str, int]


def federated_models(
    study: StudyConfig, arm: Federated, config: FederationConfig, work: Path
) -> FederatedRun:
    """Run a federation in the new folder ``work/run``.

    Raises
    ------
    MDMTError
        The federation could not start, or failed, or a site kept no head of a task.
    """
    aggregation = arm.aggregation or config.aggregation
    run = work / "run"
    sites = {
        name: site.model_copy(update={"state_dir": run / "sites" / name})
        for name, site in config.sites.items()
    }
    changes = {"aggregation": aggregation, "references": (), "sites": sites}
    config = config.model_copy(update=changes)
    run.mkdir(parents=True)
    simulate(config, run, "inprocess")
    lines = (run / "history.jsonl").read_text(encoding="utf-8").splitlines()
    history = [json.loads(line) for line in lines]
    steps = {name: sum(_steps(line, name, config) for line in history) for name in config.sites}
    models = _released(run, config) if study.checkpoint == "best" else _last(run, config)
    return FederatedRun(models, history, steps)


def _steps(line: dict[str, Any], site: str, config: FederationConfig) -> int:
    """Optimiser steps of a site in a round; one that withholds them made `local_steps`."""
    facts = line["sites"].get(site, {})
    if "steps" not in facts:  # it did not train in this round
        return 0
    steps = config.training.local_steps if facts["steps"] is None else facts["steps"]
    return int(steps or 0)


def _released(run: Path, config: FederationConfig) -> Iterator[tuple[str, str, MDMTModel]]:
    """Models of each task's best round, which are those of the release."""
    release = open_release(run / "release")
    for task in config.tasks:
        missing = set(_sites(config, task))
        for site, model in release.models(task):
            for name in [site] if site else _sites(config, task):
                missing.discard(name)
                yield name, task, model
        if missing:
            raise StateError(f"the release has no head of {task} from {', '.join(sorted(missing))}")


def _last(run: Path, config: FederationConfig) -> Iterator[tuple[str, str, MDMTModel]]:
    """Models of the last round."""
    saved = RunDirectory(run, config).checkpoints.load(config.training.rounds)
    for name, site in sorted(config.sites.items()):
        tasks = [task for task in config.tasks if task in site.offered]
        model = build_model(config, tasks, weights=False)
        received = {
            key: tensor.numpy()
            for key, tensor in saved.tensors.items()
            if key.startswith("backbone.") or head_task(key) in tasks
        }
        set_arrays(model, received)
        load_staying(model, kept_tensors(site, config, saved.facts["run"], saved.round))
        for task in tasks:
            yield name, task, model


def _sites(config: FederationConfig, task: str) -> list[str]:
    return [name for name, site in sorted(config.sites.items()) if task in site.offered]
