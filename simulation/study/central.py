"""Training in one place, round by round as a federation does, with the loop that sites use."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from mdmt.config import FederationConfig
from mdmt.data.cohort import Cohort, pool
from mdmt.evaluation import evaluate
from mdmt.metrics import weighted_mean_metrics
from mdmt.models import MDMTModel, build_model
from mdmt.seeds import derive_seed
from mdmt.training import train
from server.selection import Selection

__all__ = ["Start", "Trained", "pooled_objective", "train_centrally"]

Start = Mapping[str, Tensor] | None
"""State of a backbone to start from; None for the federation's own initial one."""


@dataclass(frozen=True)
class Trained:
    """What central training gave.

    Attributes
    ----------
    model : MDMTModel
        After the last round.
    best : dict of str to dict
        Task → state of the model after its best round; the last where it has no validation.
    history : list of dict
        As the lines of a run's ``history.jsonl``.
    steps : int
        Optimiser steps; every one sees images of every site.
    """

    model: MDMTModel
    best: dict[str, dict[str, Tensor]]
    history: list[dict[str, Any]]
    steps: int

    def backbone_of(self, task: str, checkpoint: str) -> dict[str, Tensor]:
        """Copy of the backbone's state in `model_of`."""
        return _copy(self.model_of(task, checkpoint).backbone.state_dict())

    def model_of(self, task: str, checkpoint: str) -> MDMTModel:
        """The model to test `task` with: after the last round, or after the task's best."""
        if checkpoint == "best":
            self.model.load_state_dict(self.best[task])
        return self.model


def pooled_objective(config: FederationConfig) -> tuple[dict[str, float], dict[str, float]]:
    """Coefficients and rates with which pooled training optimises what the federation does.

    Plain SGD on L = Σ λ_t ℓ_t with backbone rate η/Λ and head rates η/λ_t takes the federation's
    steps (property P2). Adam divides a gradient by its size: with L/Λ at the rate η its steps are
    about as large as the federation's; weight decay is not scaled with the loss.

    Returns
    -------
    coefficients, rates : dict of str to float
        As `train` takes them.
    """
    weights = {task: entry.weight for task, entry in config.tasks.items()}
    whole = sum(weights.values())
    if config.training.optimizer.name == "sgd":
        heads = {f"heads.{task}": 1 / weight for task, weight in weights.items()}
        return weights, {"backbone": 1 / whole} | heads
    return {task: weight / whole for task, weight in weights.items()}, {}


def train_centrally(
    config: FederationConfig,
    cohorts: Mapping[str, Cohort],
    tasks: list[str],
    *,
    who: str,
    rounds: int,
    device: torch.device,
    start: Start = None,
) -> Trained:
    """Train one model on the pooled data of some sites.

    Initial weights, recipe and scheduler are the federation's. Optimiser moments go on from round
    to round, for the backbone too: nothing is averaged here.

    Parameters
    ----------
    config : FederationConfig
    cohorts : mapping of str to Cohort
        By site.
    tasks : list of str
        What is trained; several make the pooled objective.
    who : str
        Decides, with the seed and the round, the order of images; a site's name gives the order
        that the site has in the federation.
    rounds : int
        The scheduler spans them.
    device : torch.device
    start : mapping of str to Tensor, optional
        Backbone to start from; heads are always the federation's initial ones.
    """
    training = config.training.model_copy(update={"rounds": rounds})
    config = config.model_copy(update={"training": training})
    model = build_model(config, tasks, weights=start is None).to(device)
    if start is not None:
        model.backbone.load_state_dict(dict(start))
    coefficients, rates = pooled_objective(config) if len(tasks) > 1 else ({tasks[0]: 1.0}, {})
    names = [name for name, _ in model.named_parameters()]
    pooled = pool(list(cohorts.values())) if len(cohorts) > 1 else next(iter(cohorts.values()))
    selection, moments, steps = Selection(config), dict[str, Tensor](), 0
    best: dict[str, dict[str, Tensor]] = {}
    history = []
    for number in range(1, rounds + 1):
        result = train(
            model,
            pooled,
            config,
            coefficients={task: coefficients[task] for task in tasks},
            seed=derive_seed(config.seed, "train", who, number),
            device=device,
            round_number=number,
            lr_factor=selection.lr_factor,
            start_moments=moments,
            keep_moments=names,
            rates=rates,
        )
        moments, steps = result.moments, steps + result.steps
        validation = {
            site: evaluate(model, cohort, "val", config, _common(cohort, tasks), device)
            for site, cohort in cohorts.items()
        }
        means = weighted_mean_metrics(validation)
        selection.book(number, means)
        for task in tasks:
            chosen = selection.best.get(task)
            if chosen is None or chosen.round == number:
                best[task] = _copy(model.state_dict())
        history.append(
            {
                "round": number,
                "sites": {site: {"validation": _defined(m)} for site, m in validation.items()},
                "losses": _defined(result.losses),
                "tasks": _defined(means),
            }
        )
    return Trained(model, best, history, steps)


def _common(cohort: Cohort, tasks: list[str]) -> list[str]:
    return [task for task in tasks if task in cohort.manifest.targets]


def _defined(metrics: Mapping[str, float | int | None]) -> dict[str, float | int | None]:
    """Write None for what is not finite, as in a model that diverged."""
    return {k: v if v is not None and math.isfinite(v) else None for k, v in metrics.items()}


def _copy(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in state.items()}
