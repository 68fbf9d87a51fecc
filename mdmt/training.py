"""The training loop: sites, pooled and local-only runs all use this one."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from mdmt.config import FederationConfig, TrainingConfig
from mdmt.data.augmentation import Augmentation
from mdmt.data.batches import (
    batches_per_epoch,
    joint_batches,
    load_images,
    load_targets,
    normalise,
)
from mdmt.data.cohort import Cohort
from mdmt.errors import ConfigError, DataError
from mdmt.losses import combine, masked_mean
from mdmt.models import MDMTModel, set_training_mode

__all__ = [
    "TrainingResult",
    "learning_rate_factor",
    "load_moments",
    "moments",
    "resolve_device",
    "steps_per_round",
    "train",
]

_AMP = {"bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class TrainingResult:
    """What a call of `train` did.

    Attributes
    ----------
    losses : dict of str to float
        ℓ_t averaged over every labelled output that was seen; tasks never seen are absent.
    images, steps : int
    seconds : float
    moments : dict of str to Tensor
        Optimiser moments of the parameters named in `keep_moments`, for the next round.
    """

    losses: dict[str, float]
    images: int
    steps: int
    seconds: float
    moments: dict[str, Tensor]


def resolve_device(name: str) -> torch.device:
    """Turn ``auto``, ``cpu`` or ``cuda:N`` into a device that is there.

    Raises
    ------
    ConfigError
        The GPU is not there.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    device = torch.device(name)
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ConfigError(f"device: {name} is not there; use auto or cpu")
    return device


def learning_rate_factor(training: TrainingConfig, progress: float) -> float:
    """What the scheduler leaves of the rate after `progress` rounds (fractions count)."""
    scheduler = training.scheduler
    if scheduler.name == "cosine":
        return 0.5 * (1 + math.cos(math.pi * progress / training.rounds))
    if scheduler.name == "step":
        return float(scheduler.gamma ** (int(progress) // scheduler.rounds))
    return 1.0


def steps_per_round(training: TrainingConfig, images: int) -> int:
    """Optimiser steps of one round over `images` training images of a site."""
    if training.local_steps is not None:
        return training.local_steps
    return (training.local_epochs or 1) * batches_per_epoch(images, training.batch_size)


def train(
    model: MDMTModel,
    cohort: Cohort,
    config: FederationConfig,
    *,
    coefficients: Mapping[str, float],
    seed: int,
    device: torch.device,
    round_number: int = 1,
    lr_factor: float = 1.0,
    proximal_mu: float = 0.0,
    start_moments: Mapping[str, Tensor] | None = None,
    keep_moments: Iterable[str] = (),
    rates: Mapping[str, float] | None = None,
) -> TrainingResult:
    """Train `model` in place for one round on the training split of `cohort`.

    Minimises L = Σ_t c_t ℓ_t (+ μ/2·‖θ - θ_r‖² over the backbone), where ℓ_t is the
    indicator-masked mean loss of task t over the labelled outputs of a batch. On pooled cohorts a
    batch has `batch_size` images per cohort, stratified by task.

    Parameters
    ----------
    model : MDMTModel
        On `device`; θ_r is its backbone as it comes in.
    cohort : Cohort
    config : FederationConfig
    coefficients : mapping of str to float
        c_t of every task to train.
    seed : int
        Decides shuffling, augmentation and dropout.
    device : torch.device
    round_number : int
        Absolute, from 1, for the scheduler.
    lr_factor : float
        What the server's plateau scheduler has left of the rate.
    proximal_mu : float
        μ of FedProx (Li et al. 2018, eq. 2).
    start_moments : mapping of str to Tensor, optional
        Moments to go on from, as an earlier `TrainingResult` gave them.
    keep_moments : iterable of str
        Names of the parameters whose moments to return.
    rates : mapping of str to float, optional
        Factors on the rate of ``backbone`` and of ``heads.<task>`` (property P2 needs them).

    Raises
    ------
    DataError
        There is no labelled training image.
    """
    started = time.monotonic()
    tasks = list(coefficients)
    indices = cohort.training_indices(tasks)
    if len(indices) == 0:
        raise DataError(f"no training image has a label of {', '.join(tasks)}")
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    # One image has no batch statistics: its normalisation layers keep the ones they came with.
    set_training_mode(model, config.aggregation.norm_layers if len(indices) > 1 else "frozen")
    spaces = {task: config.space(task) for task in tasks}
    augment = Augmentation(config.augmentation, spaces)
    class_weights = _class_weights(cohort, config, tasks, device)
    optimizer = _optimizer(model, config.training, rates or {})
    load_moments(optimizer, model, start_moments or {})
    backbone = [p for p in model.backbone.parameters() if p.requires_grad]
    anchor = [p.detach().clone() for p in backbone] if proximal_mu else []
    scaler = torch.amp.GradScaler(device.type, enabled=config.training.amp == "fp16")
    amp = _AMP.get(config.training.amp)
    totals = {task: torch.zeros(2, device=device) for task in tasks}
    strata = cohort.strata(indices)
    steps = steps_per_round(config.training, max(-(-len(own) // n) for own, n in strata))
    images_seen = 0

    order = joint_batches(strata, config.training.batch_size, steps, np.random.default_rng(seed))
    for step, batch in enumerate(order):
        targets = load_targets(cohort, batch, tasks, device)
        images, targets = augment(load_images(cohort, batch, device), targets, generator)
        images = normalise(images, config)
        with torch.autocast(device.type, amp, enabled=amp is not None):
            outputs = model(images, targets)
        losses = {}
        for task, target in targets.items():
            output = outputs[task].to(target.dtype)  # losses are not for half precision
            losses[task], count = masked_mean(spaces[task], output, target, class_weights.get(task))
            totals[task] += torch.stack((losses[task].detach() * count, count))
        optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(scaler.scale(combine(losses, coefficients)))
        scaler.unscale_(optimizer)
        if proximal_mu:
            _add_proximal_gradient(backbone, anchor, proximal_mu)
        if config.training.clip_norm is not None:
            nn.utils.clip_grad_norm_(model.parameters(), config.training.clip_norm)
        progress = round_number - 1 + step / steps
        _set_rates(optimizer, config.training, lr_factor, progress)
        scaler.step(optimizer)
        scaler.update()
        images_seen += len(batch)

    sums = {task: total.tolist() for task, total in totals.items()}
    return TrainingResult(
        losses={task: value / count for task, (value, count) in sums.items() if count},
        images=images_seen,
        steps=steps,
        seconds=time.monotonic() - started,
        moments=moments(optimizer, model, keep_moments),
    )


def _class_weights(
    cohort: Cohort, config: FederationConfig, tasks: Iterable[str], device: torch.device
) -> dict[str, Tensor]:
    """Class weights of the tasks that ask for them, from the labels of this training split."""
    train = cohort.manifest.indices("train")
    weights = {
        task: config.space(task).balanced_weights(cohort.manifest.targets[task][train])
        for task in tasks
        if config.tasks[task].class_weights == "balanced"
    }
    return {
        task: torch.as_tensor(value, dtype=torch.float32, device=device)
        for task, value in weights.items()
        if value is not None
    }


def _optimizer(
    model: MDMTModel, training: TrainingConfig, rates: Mapping[str, float]
) -> torch.optim.Optimizer:
    """One parameter group for the backbone and one per head, each with its factor on the rate."""
    parts: dict[str, nn.Module] = {"backbone": model.backbone}
    parts |= {f"heads.{task}": head for task, head in model.heads.items()}
    groups = [
        {
            "params": [p for p in part.parameters() if p.requires_grad],
            "rate": rates.get(name, 1.0),
        }
        for name, part in parts.items()
    ]
    options = training.optimizer.model_dump(exclude={"name"})
    kinds: dict[str, Any] = {
        "sgd": torch.optim.SGD,
        "adam": torch.optim.Adam,
        "adamw": torch.optim.AdamW,
    }
    optimizer: torch.optim.Optimizer = kinds[training.optimizer.name](groups, **options)
    return optimizer


def _set_rates(
    optimizer: torch.optim.Optimizer, training: TrainingConfig, lr_factor: float, progress: float
) -> None:
    """Give every parameter group its rate after `progress` rounds."""
    rate = training.optimizer.lr * lr_factor * learning_rate_factor(training, progress)
    for group in optimizer.param_groups:
        group["lr"] = rate * group["rate"]


def _add_proximal_gradient(parameters: list[nn.Parameter], anchor: list[Tensor], mu: float) -> None:
    """Add μ(θ - θ_r), the gradient of the proximal term."""
    for parameter, start in zip(parameters, anchor, strict=True):
        if parameter.grad is not None:
            parameter.grad.add_(parameter.detach() - start, alpha=mu)


def moments(
    optimizer: torch.optim.Optimizer, model: MDMTModel, names: Iterable[str]
) -> dict[str, Tensor]:
    """Optimiser state of the parameters called `names`, as ``<name>.<moment>`` → CPU tensor."""
    parameters = dict(model.named_parameters())
    return {
        f"{name}.{key}": value.detach().cpu().clone()
        for name in names
        for key, value in optimizer.state.get(parameters[name], {}).items()
        if isinstance(value, Tensor)
    }


def load_moments(
    optimizer: torch.optim.Optimizer, model: MDMTModel, saved: Mapping[str, Tensor]
) -> None:
    """Put `moments` back; a no-op for an empty mapping."""
    parameters = dict(model.named_parameters())
    for key, value in saved.items():
        name, _, moment = key.rpartition(".")
        parameter = parameters[name]
        # Adam's step counter lives on the CPU, everything else beside its parameter.
        place = torch.device("cpu") if moment == "step" else parameter.device
        optimizer.state[parameter][moment] = value.to(place).clone()
