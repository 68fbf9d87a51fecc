"""What each arm does with one fold and one seed: train, then predict the sites' test images."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mdmt.config import FederationConfig
from mdmt.data.cohort import Cohort
from mdmt.errors import RunError
from mdmt.evaluation import predict_outputs
from mdmt.models import MDMTModel
from mdmt.tasks.base import FloatArray
from mdmt.training import resolve_device
from simulation.study.central import Start, Trained, train_centrally
from simulation.study.config import StudyConfig
from simulation.study.federated import federated_models
from simulation.study.kinds import AverageInit, Finetune, Metadata
from simulation.study.metadata import has_columns, predict_from_columns

__all__ = ["ARMS", "Bench", "Outcome"]


@dataclass(frozen=True)
class Bench:
    """What an arm is given.

    Attributes
    ----------
    study : StudyConfig
    arm : Arm
        One of ``study.arms``.
    config : FederationConfig
        The federation of this cell: its seed and backbone; sites as they read this fold.
    cohorts : dict of str to Cohort
        By site, divided by this fold.
    work : Path
        Folder for the arm's files; it is removed afterwards.
    """

    study: StudyConfig
    arm: Any
    config: FederationConfig
    cohorts: Mapping[str, Cohort]
    work: Path

    @property
    def device(self) -> torch.device:
        """Where central arms train: where the first site would."""
        return resolve_device(self.config.sites[min(self.config.sites)].device)

    def tasks(self, site: str) -> list[str]:
        """Tasks of a site, in the federation's order."""
        return [task for task in self.config.tasks if task in self.config.sites[site].tasks]

    def sites(self, task: str) -> list[str]:
        """Sites that have a task, sorted."""
        return [site for site in sorted(self.cohorts) if task in self.config.sites[site].tasks]


@dataclass
class Outcome:
    """What an arm gave.

    Attributes
    ----------
    predictions : dict of (str, str) to ndarray
        Site and task → predictions of the site's test images, float64 (N, P).
    steps : dict of str to int
        Target site → optimiser steps that saw its images of the target.
    history : list of dict
        Learning curves, as the lines of a run's ``history.jsonl``.
    """

    predictions: dict[tuple[str, str], FloatArray] = field(default_factory=dict)
    steps: dict[str, int] = field(default_factory=dict)
    history: list[dict[str, Any]] = field(default_factory=list)

    def predict(self, bench: Bench, site: str, task: str, model: MDMTModel) -> None:
        """Let `model` predict a site's test images."""
        cohort = bench.cohorts[site]
        test = cohort.manifest.indices("test")
        model, device = model.to(bench.device), bench.device
        outputs = predict_outputs(model, cohort, test, bench.config, [task], device)[task]
        self.predictions[site, task] = bench.config.space(task).decode(outputs.numpy())

    def check(self, study: StudyConfig) -> None:
        """Refuse a result that lacks what arms are compared on."""
        missing = [s for s in study.target_sites() if (s, study.target) not in self.predictions]
        if missing:
            raise RunError(f"it predicts no {study.target} at {', '.join(missing)}")

    def take(self, bench: Bench, trained: Trained, site: str, tasks: list[str]) -> None:
        """Let a centrally trained model predict a site's test images, and book its steps."""
        for task in tasks:
            model = trained.model_of(task, bench.study.checkpoint)
            self.predict(bench, site, task, model)
            if task == bench.study.target:
                self.steps[site] = self.steps.get(site, 0) + trained.steps


def _constant(bench: Bench) -> Outcome:
    outcome = Outcome()
    for site, cohort in bench.cohorts.items():
        train, test = (cohort.manifest.indices(split) for split in ("train", "test"))
        for task in bench.tasks(site):
            constant = bench.config.space(task).constant(cohort.manifest.targets[task][train])
            outcome.predictions[site, task] = np.tile(constant, (len(test), 1))
    return outcome


def _metadata(bench: Bench) -> Outcome:
    assert isinstance(bench.arm, Metadata)
    outcome = Outcome()
    for site, cohort in bench.cohorts.items():
        if not has_columns(cohort.manifest, bench.arm.columns):
            continue  # a site without the target; the others were checked
        for task in bench.tasks(site):
            outcome.predictions[site, task] = predict_from_columns(
                cohort.manifest, task, bench.config.sites[site], bench.arm.columns
            )
    return outcome


def _local(bench: Bench) -> Outcome:
    outcome = Outcome()
    for site in bench.cohorts:
        _alone(bench, outcome, site, bench.tasks(site), bench.config.training.rounds, None)
    return outcome


def _finetune(bench: Bench) -> Outcome:
    assert isinstance(bench.arm, Finetune)
    rounds = bench.config.training.rounds
    start, _ = _single_task(bench, bench.study.source(bench.arm), rounds)
    outcome = Outcome()
    for site in bench.sites(bench.study.target):
        _alone(bench, outcome, site, [bench.study.target], rounds, start)
    return outcome


def _average_init(bench: Bench) -> Outcome:
    """Each stage has half of the rounds, so that the target has no more steps than elsewhere."""
    assert isinstance(bench.arm, AverageInit)
    target, rounds = bench.study.target, bench.config.training.rounds
    first = rounds // 2
    own, steps = _single_task(bench, target, first)
    source, _ = _single_task(bench, bench.study.source(bench.arm), first)
    beta = bench.arm.beta
    start = {
        name: tensor.lerp(source[name], 1 - beta) if tensor.is_floating_point() else tensor
        for name, tensor in own.items()
    }
    outcome = Outcome(steps=dict.fromkeys(bench.sites(target), steps))
    if bench.arm.then == "pooled":
        return _together(bench, outcome, rounds - first, start)
    for site in bench.sites(target):
        _alone(bench, outcome, site, [target], rounds - first, start)
    return outcome


def _pooled(bench: Bench) -> Outcome:
    return _together(bench, Outcome(), bench.config.training.rounds, None)


def _federated(bench: Bench) -> Outcome:
    outcome = Outcome()
    run = federated_models(bench.study, bench.arm, bench.config, bench.work)
    for site, task, model in run.models:
        outcome.predict(bench, site, task, model)
    outcome.history = run.history
    outcome.steps = {site: run.steps[site] for site in bench.sites(bench.study.target)}
    return outcome


def _single_task(bench: Bench, task: str, rounds: int) -> tuple[dict[str, Tensor], int]:
    """Backbone of a model of one task, on the pooled data of the sites that have it; its steps.

    It is that of the round that would be tested.
    """
    cohorts = {site: bench.cohorts[site] for site in bench.sites(task)}
    trained = train_centrally(
        bench.config, cohorts, [task], who=f"{task} first", rounds=rounds, device=bench.device
    )
    return trained.backbone_of(task, bench.study.checkpoint), trained.steps


def _alone(
    bench: Bench, outcome: Outcome, site: str, tasks: list[str], rounds: int, start: Start
) -> None:
    """Train on one site's data alone; it predicts that site's test images."""
    trained = train_centrally(
        bench.config,
        {site: bench.cohorts[site]},
        tasks,
        who=site,
        rounds=rounds,
        device=bench.device,
        start=start,
    )
    outcome.take(bench, trained, site, tasks)
    outcome.history += [line | {"site": site} for line in trained.history]


def _together(bench: Bench, outcome: Outcome, rounds: int, start: Start) -> Outcome:
    """Train all tasks on the pooled data of all sites."""
    trained = train_centrally(
        bench.config,
        bench.cohorts,
        list(bench.config.tasks),
        who="pooled",
        rounds=rounds,
        device=bench.device,
        start=start,
    )
    for site in bench.cohorts:
        outcome.take(bench, trained, site, bench.tasks(site))
    outcome.history += trained.history
    return outcome


ARMS: dict[str, Callable[[Bench], Outcome]] = {
    "constant": _constant,
    "metadata": _metadata,
    "local": _local,
    "finetune": _finetune,
    "average_init": _average_init,
    "pooled": _pooled,
    "federated": _federated,
}
