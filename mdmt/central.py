"""Train in one place, in rounds like a federation, with the training loop of the sites.

A site that trains alone and the central arms of a study use this module. It does not average, so
the moments of the optimiser continue from round to round, also for the backbone.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from mdmt.checkpoints import Saved
from mdmt.config import FederationConfig
from mdmt.data.cohort import Cohort, pool
from mdmt.evaluation import evaluate
from mdmt.messages import Metrics
from mdmt.models import MDMTModel, build_model
from mdmt.seeds import derive_seed
from mdmt.selection import Selection
from mdmt.training import train

Start = Mapping[str, Tensor] | None
"""State of the initial backbone; None for the initial backbone of the federation."""
_MODEL, _MOMENTS = "model.", "moments."


@dataclass(frozen=True)
class Trained:
    """The result of central training.

    Attributes
    ----------
    model : MDMTModel
        After the last round.
    best : dict of str to dict
        State of the model after the best round of each task; after the last without validation.
    history : list of dict
        Like the lines of ``history.jsonl`` of a run.
    steps : int
        Optimiser steps. Each one uses images of every site.
    """

    model: MDMTModel
    best: dict[str, dict[str, Tensor]]
    history: list[dict[str, Any]]
    steps: int

    def backbone_of(self, task: str, checkpoint: str) -> dict[str, Tensor]:
        """Return a copy of the backbone's state of `model_of`."""
        return _copy(self.model_of(task, checkpoint).backbone.state_dict())

    def model_of(self, task: str, checkpoint: str) -> MDMTModel:
        """Return the model that `task` is tested with: after its last or its best round."""
        if checkpoint == "best":
            self.model.load_state_dict(self.best[task])
        return self.model


def pooled_objective(
    config: FederationConfig, tasks: list[str]
) -> tuple[dict[str, float], dict[str, float]]:
    """Return coefficients and rates for which pooled training equals the federation.

    SGD on L = Σ λ_t ℓ_t with the backbone rate η/Λ and the head rates η/λ_t makes the steps of the
    federation (property P2). Adam divides a gradient by its size: with L/Λ and the rate η its steps
    are about as large as those of the federation. The loss does not scale the weight decay.

    Parameters
    ----------
    config : FederationConfig
    tasks : list of str
        The trained tasks. Λ is the sum over these tasks only.

    Returns
    -------
    coefficients, rates : dict of str to float
        Arguments of `train`.
    """
    if len(tasks) == 1:
        return {tasks[0]: 1.0}, {}
    weights = {task: config.tasks[task].weight for task in tasks}
    total = sum(weights.values())
    if config.training.optimizer.name == "sgd":
        heads = {f"heads.{task}": 1 / weight for task, weight in weights.items()}
        return weights, {"backbone": 1 / total} | heads
    return {task: weight / total for task, weight in weights.items()}, {}


@dataclass
class CentralRound:
    """The state after a round, from which the next round starts.

    Attributes
    ----------
    number : int
    model : MDMTModel
        The next round changes it.
    selection : Selection
    moments : dict of str to Tensor
    steps : int
        Optimiser steps of this round.
    line : dict
        Like a line of ``history.jsonl`` of a run.
    """

    number: int
    model: MDMTModel
    selection: Selection
    moments: dict[str, Tensor] = field(default_factory=dict)
    steps: int = 0
    line: dict[str, Any] = field(default_factory=dict)

    def tensors(self) -> dict[str, Tensor]:
        """Return the tensors that `restore` needs, in addition to ``selection.save()``."""
        state = {_MODEL + name: value for name, value in self.model.state_dict().items()}
        return state | {_MOMENTS + name: value for name, value in self.moments.items()}

    def restore(self, saved: Saved) -> None:
        """Continue from a saved round."""
        parts: dict[str, dict[str, Tensor]] = {_MODEL: {}, _MOMENTS: {}}
        for name, value in saved.tensors.items():
            prefix = _MODEL if name.startswith(_MODEL) else _MOMENTS
            parts[prefix][name.removeprefix(prefix)] = value
        self.model.load_state_dict(parts[_MODEL])
        self.number, self.moments = saved.round, parts[_MOMENTS]
        self.selection.load(saved.facts)


def central_rounds(
    config: FederationConfig,
    cohorts: Mapping[str, Cohort],
    tasks: list[str],
    model: MDMTModel,
    *,
    who: str,
    rounds: int,
    device: torch.device,
    saved: Saved | None = None,
) -> Iterator[CentralRound]:
    """Train `model` on the pooled data of sites. Yield after every round.

    Parameters
    ----------
    config : FederationConfig
    cohorts : mapping of str to Cohort
        By site.
    tasks : list of str
        The trained tasks. Several tasks use the pooled objective.
    model : MDMTModel
        With initial values, on `device`.
    who : str
        This name, the seed and the round decide the order of images. The name of a site gives the
        same order as in the federation.
    rounds : int
        Number of rounds. The scheduler covers all of them.
    device : torch.device
    saved : Saved, optional
        A finished round to continue from: `CentralRound.tensors` and ``selection.save()``.
    """
    training = config.training.model_copy(update={"rounds": rounds})
    config = config.model_copy(update={"training": training})
    coefficients, rates = pooled_objective(config, tasks)
    names = [name for name, _ in model.named_parameters()]
    pooled = pool(list(cohorts.values())) if len(cohorts) > 1 else next(iter(cohorts.values()))
    expected = {
        task: [s for s, cohort in cohorts.items() if task in cohort.manifest.targets]
        for task in tasks
    }
    done = CentralRound(0, model, Selection(config))
    if saved is not None:
        done.restore(saved)
    for number in range(done.number + 1, rounds + 1):
        result = train(
            model,
            pooled,
            config,
            coefficients=coefficients,
            seed=derive_seed(config.seed, "train", who, number),
            device=device,
            round_number=number,
            lr_factor=done.selection.lr_factor,
            start_moments=done.moments,
            keep_moments=names,
            rates=rates,
        )
        validation = {
            site: evaluate(model, cohort, "val", config, _common(cohort, tasks), device)
            for site, cohort in cohorts.items()
        }
        means = done.selection.book(number, validation, expected)
        line = {
            "round": number,
            "sites": {site: {"validation": _finite(m)} for site, m in validation.items()},
            "losses": _finite(result.losses),
            "tasks": _finite(means),
        }
        done = CentralRound(number, model, done.selection, result.moments, result.steps, line)
        yield done


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
    """Run all `central_rounds` from the initial model of the federation.

    Parameters
    ----------
    config, cohorts, tasks, who, rounds, device
        See `central_rounds`.
    start : mapping of str to Tensor, optional
        Initial backbone. The heads are always the initial ones of the federation.
    """
    model = build_model(config, tasks, weights=start is None).to(device)
    if start is not None:
        model.backbone.load_state_dict(dict(start))
    best: dict[str, dict[str, Tensor]] = {}
    history, steps = [], 0
    for done in central_rounds(
        config, cohorts, tasks, model, who=who, rounds=rounds, device=device
    ):
        for task in tasks:
            chosen = done.selection.best.get(task)
            if chosen is None or chosen.round == done.number:
                best[task] = _copy(model.state_dict())
        history.append(done.line)
        steps += done.steps
    return Trained(model, best, history, steps)


def _common(cohort: Cohort, tasks: list[str]) -> list[str]:
    return [task for task in tasks if task in cohort.manifest.targets]


def _finite(metrics: Mapping[str, float | int | None]) -> Metrics:
    """Replace values that are not finite by None. A diverged model has such values."""
    return {k: v if v is not None and math.isfinite(v) else None for k, v in metrics.items()}


def _copy(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in state.items()}
