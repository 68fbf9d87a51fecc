"""Optimisers, their learning rates and their moments."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from mdmt.config import TrainingConfig
from mdmt.models import MDMTModel

_KINDS: dict[str, Any] = {
    "sgd": torch.optim.SGD,
    "adam": torch.optim.Adam,
    "adamw": torch.optim.AdamW,
}


def build_optimizer(
    model: MDMTModel,
    training: TrainingConfig,
    rates: Mapping[str, float],
    saved: Mapping[str, Tensor],
) -> torch.optim.Optimizer:
    """Build an optimiser with one parameter group for the backbone and one for each head.

    Parameters
    ----------
    model : MDMTModel
    training : TrainingConfig
    rates : mapping of str to float
        Factors on the rate of ``backbone``, beside `training.backbone_lr_mult`, and of
        ``heads.<task>``. The default is 1.
    saved : mapping of str to Tensor
        `moments` to continue from. Other parameters start without moments.
    """
    factors = dict(rates)
    factors["backbone"] = factors.get("backbone", 1.0) * training.backbone_lr_mult
    parts: dict[str, nn.Module] = {"backbone": model.backbone}
    parts |= {f"heads.{task}": head for task, head in model.heads.items()}
    groups = [
        {
            "params": [p for p in part.parameters() if p.requires_grad],
            "rate": factors.get(name, 1.0),
        }
        for name, part in parts.items()
    ]
    # Fused: one pass over the parameters, and the loss scale needs no wait for the GPU.
    options = training.optimizer.model_dump(exclude={"name"}) | {"fused": True}
    optimizer: torch.optim.Optimizer = _KINDS[training.optimizer.name](groups, **options)
    if options.get("momentum"):
        # Fused SGD needs moments for all parameters or for none. Zeros give the same first step.
        for parameter in (p for group in optimizer.param_groups for p in group["params"]):
            optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
    parameters = dict(model.named_parameters())
    for key, value in saved.items():
        name, _, moment = key.rpartition(".")
        optimizer.state[parameters[name]][moment] = value.to(parameters[name].device, copy=True)
    return optimizer


def moments(
    optimizer: torch.optim.Optimizer, model: MDMTModel, names: Iterable[str]
) -> dict[str, Tensor]:
    """Return the moments of the parameters `names`: ``<name>.<moment>`` → CPU tensor."""
    parameters = dict(model.named_parameters())
    return {
        f"{name}.{key}": value.detach().to("cpu", copy=True)
        for name in names
        for key, value in optimizer.state.get(parameters[name], {}).items()
        if isinstance(value, Tensor)
    }


def learning_rate_factor(training: TrainingConfig, progress: float) -> float:
    """Return the scheduler's factor on the rate after `progress` rounds, a fraction included."""
    scheduler = training.scheduler
    if scheduler.name == "cosine":
        return 0.5 * (1 + math.cos(math.pi * progress / training.rounds))
    if scheduler.name == "step":
        return float(scheduler.gamma ** (int(progress) // scheduler.rounds))
    return 1.0


def set_rates(
    optimizer: torch.optim.Optimizer, training: TrainingConfig, lr_factor: float, progress: float
) -> None:
    """Set the rate of every parameter group after `progress` rounds."""
    rate = training.optimizer.lr * lr_factor * learning_rate_factor(training, progress)
    for group in optimizer.param_groups:
        group["lr"] = rate * group["rate"]
