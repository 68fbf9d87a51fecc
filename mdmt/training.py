"""The training loop. Sites, references and all arms of a study use it."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from mdmt.config import FederationConfig, TrainingConfig
from mdmt.data.augmentation import Augmentation
from mdmt.data.batches import (
    batches_per_epoch,
    joint_batches,
    load_images,
    load_targets,
    normalise,
    prefetch,
)
from mdmt.data.cohort import Cohort
from mdmt.errors import ConfigError, DataError
from mdmt.losses import Objective
from mdmt.memory import keep_memory
from mdmt.models import MDMTModel, set_training_mode
from mdmt.optimisers import build_optimizer, moments, set_rates

_AMP = {"bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class TrainingResult:
    """The result of `train`.

    Attributes
    ----------
    losses : dict of str to float
        Mean of ℓ_t over all labelled outputs; tasks without one are absent.
    images, steps : int
    moments : dict of str to Tensor
        Optimiser moments of the parameters named in `keep_moments`, for the next round.
    """

    losses: dict[str, float]
    images: int
    steps: int
    moments: dict[str, Tensor]


def resolve_device(name: str) -> torch.device:
    """Return the device for ``auto``, ``cpu`` or ``cuda:N``.

    Raises
    ------
    ConfigError
        The machine does not have this GPU.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    device = torch.device(name)
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ConfigError(f"device: {name} is not there; use auto or cpu")
    return device


def steps_per_round(training: TrainingConfig, images: int) -> int:
    """Return the optimiser steps of a round for `images` training images of a site."""
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
    anchor: Mapping[str, Tensor] | None = None,
    start_moments: Mapping[str, Tensor] | None = None,
    keep_moments: Iterable[str] = (),
    rates: Mapping[str, float] | None = None,
) -> TrainingResult:
    """Train `model` in place for one round on the training split of `cohort`.

    Minimises L = Σ_t c_t ℓ_t (+ μ/2·‖θ - θ_0‖² over the backbone), where ℓ_t is the
    indicator-masked mean loss of task t over the labelled outputs of a batch. On pooled cohorts a
    batch has `batch_size` images per cohort, stratified by task.

    Parameters
    ----------
    model : MDMTModel
        On `device`.
    cohort : Cohort
    config : FederationConfig
    coefficients : mapping of str to float
        c_t of every task to train.
    seed : int
        Decides shuffling, augmentation and dropout.
    device : torch.device
    round_number : int
        Number of the round in the run, from 1, for the scheduler.
    lr_factor : float
        Factor on the rate from the plateau scheduler of the server.
    proximal_mu : float
        μ of the proximal term (Li et al. 2018, eq. 2).
    anchor : mapping of str to Tensor, optional
        θ_0 by parameter name. The default is the values that the model has now.
    start_moments : mapping of str to Tensor, optional
        Moments from an earlier `TrainingResult`, to continue from.
    keep_moments : iterable of str
        Names of the parameters whose moments are returned.
    rates : mapping of str to float, optional
        Factors on the rate of ``backbone`` and of ``heads.<task>`` (property P2 needs them).

    Raises
    ------
    DataError
        There is no labelled training image.
    ConfigError
        `training.compile` is set and this machine has no compiler.
    """
    keep_memory()
    tasks = list(coefficients)
    indices = cohort.training_indices(tasks)
    if len(indices) == 0:
        raise DataError(f"no training image has a label of {', '.join(tasks)}")
    strata = cohort.strata(indices)
    steps = steps_per_round(config.training, max(-(-len(own) // n) for own, n in strata))
    torch.manual_seed(seed)
    # One image has no batch statistics: the normalisation layers then keep their statistics.
    set_training_mode(model, config.aggregation.norm_layers if len(indices) > 1 else "frozen")
    optimizer = build_optimizer(model, config.training, rates or {}, start_moments or {})
    spaces = {task: config.space(task) for task in tasks}
    objective = Objective(spaces, coefficients, _class_weights(cohort, config, tasks, device))
    pulled = _pulled(model, anchor) if proximal_mu else []
    scaler = torch.amp.GradScaler(device.type, enabled=config.training.amp == "fp16")
    amp = _AMP.get(config.training.amp)
    forward = _compiled(model) if config.training.compile else model
    images_seen = 0

    order = joint_batches(strata, config.training.batch_size, steps, np.random.default_rng(seed))
    place = next(model.parameters()).device  # with a number: each thread has its own current GPU
    batches = prefetch(_batches(cohort, config, order, tasks, seed, place))
    for step, (images, targets) in enumerate(batches):
        with torch.autocast(device.type, amp, enabled=amp is not None):
            outputs = forward(images, tuple(targets))
        optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(scaler.scale(objective(outputs, targets)))
        scaler.unscale_(optimizer)
        if proximal_mu:
            _add_proximal_gradient(pulled, proximal_mu)
        if config.training.clip_norm is not None:
            nn.utils.clip_grad_norm_(model.parameters(), config.training.clip_norm)
        set_rates(optimizer, config.training, lr_factor, round_number - 1 + step / steps)
        scaler.step(optimizer)
        scaler.update()
        images_seen += len(images)

    return TrainingResult(
        losses=objective.means(),
        images=images_seen,
        steps=steps,
        moments=moments(optimizer, model, keep_moments),
    )


def _compiled(model: MDMTModel) -> MDMTModel:
    """Return a model with the same heads and a compiled backbone. Evaluation uses the original."""
    compiler = os.environ.get("CXX", "g++")  # the variable that torch's inductor reads
    if shutil.which(compiler) is None:
        raise ConfigError(f"training.compile: no compiler {compiler}; install it or use false")
    backbone = torch.compile(model.backbone)
    assert isinstance(backbone, nn.Module)
    return MDMTModel(backbone, dict(model.heads.items()))


def _batches(
    cohort: Cohort,
    config: FederationConfig,
    order: Iterable[NDArray[np.intp]],
    tasks: Sequence[str],
    seed: int,
    device: torch.device,
) -> Iterator[tuple[Tensor, dict[str, Tensor]]]:
    """Yield batches of augmented, normalised images and the targets of the labelled tasks."""
    augment = Augmentation(config.augmentation, {task: config.space(task) for task in tasks})
    generator = torch.Generator().manual_seed(seed)
    for indices in order:
        images = load_images(cohort, indices, device)
        targets = load_targets(cohort, indices, tasks, device)
        images, targets = augment(images, targets, generator)
        yield normalise(images, config), targets


def _class_weights(
    cohort: Cohort, config: FederationConfig, tasks: Iterable[str], device: torch.device
) -> dict[str, Tensor]:
    """Return the class weights of tasks with ``balanced`` weights, from this training split."""
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


def _pulled(
    model: MDMTModel, anchor: Mapping[str, Tensor] | None
) -> list[tuple[nn.Parameter, Tensor]]:
    """Return the trainable parameters of the backbone, each with its value in θ_0."""
    return [
        (p, p.detach().clone() if anchor is None else anchor[f"backbone.{name}"].to(p))
        for name, p in model.backbone.named_parameters()
        if p.requires_grad
    ]


def _add_proximal_gradient(pulled: list[tuple[nn.Parameter, Tensor]], mu: float) -> None:
    """Add μ(θ - θ_0), the gradient of the proximal term."""
    for parameter, start in pulled:
        if parameter.grad is not None:
            parameter.grad.add_(parameter.detach() - start, alpha=mu)
