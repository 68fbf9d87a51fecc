"""The training loop. Sites, references and all arms of a study use it."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Unpack

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
from mdmt.round_optimizer import RoundOptimizer, RoundOptions, trained_part

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

    def followed_by(self, later: TrainingResult) -> TrainingResult:
        """Return the result of this training and a later one in the same round.

        The losses are those of the later one.
        """
        images, steps = self.images + later.images, self.steps + later.steps
        return TrainingResult(later.losses, images, steps, self.moments | later.moments)


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


def round_batches(
    cohort: Cohort,
    config: FederationConfig,
    tasks: Sequence[str],
    seed: int,
    steps: int | None = None,
) -> Iterator[NDArray[np.intp]]:
    """Yield the images of each batch of a round, as positions in the manifest of `cohort`.

    `train` uses these batches. They are known before it starts.

    Parameters
    ----------
    cohort : Cohort
    config : FederationConfig
    tasks : sequence of str
        Tasks to train. At least one image must have a label of them.
    seed : int
        Decides the order.
    steps : int, optional
        Number of batches. The default is that of the configuration.
    """
    strata, rng = cohort.strata(cohort.training_indices(tasks)), np.random.default_rng(seed)
    steps = steps or _steps(config, strata)
    return joint_batches(strata, config.training.batch_size, steps, rng)


def train(
    model: MDMTModel,
    cohort: Cohort,
    config: FederationConfig,
    *,
    coefficients: Mapping[str, float],
    seed: int,
    device: torch.device,
    keep_moments: Iterable[str] = (),
    **options: Unpack[RoundOptions],
) -> TrainingResult:
    """Train `model` in place for one round on the training split of `cohort`.

    Minimises L = Σ_t c_t ℓ_t (+ the proximal term), where ℓ_t is the indicator-masked mean loss of
    task t over the labelled outputs of a batch. On pooled cohorts a batch has `batch_size` images
    per cohort, stratified by task.

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
    keep_moments : iterable of str
        Names of the parameters whose moments are returned.
    **options
        See `RoundOptions`.

    Raises
    ------
    DataError
        There is no labelled training image.
    ConfigError
        `training.compile` is set and this machine has no compiler.
    """
    keep_memory()
    tasks = list(coefficients)
    indices = trainable(cohort, tasks)
    steps = options.get("steps") or _steps(config, cohort.strata(indices))
    torch.manual_seed(seed)
    # One image has no batch statistics: the normalisation layers then keep their statistics.
    norm_layers = config.aggregation.norm_layers if len(indices) > 1 else "frozen"
    set_training_mode(model, norm_layers, trained_part(config.training, options))
    optimizer = RoundOptimizer(model, config.training, steps, options)
    spaces = {task: config.space(task) for task in tasks}
    objective = Objective(spaces, coefficients, _class_weights(cohort, config, tasks, device))
    amp = _AMP.get(config.training.amp)
    forward = _compiled(model) if config.training.compile else model
    images_seen = 0

    order = round_batches(cohort, config, tasks, seed, steps)
    place = next(model.parameters()).device  # with a number: each thread has its own current GPU
    batches = prefetch(_batches(cohort, config, order, tasks, seed, place))
    for step, (images, targets) in enumerate(batches):
        with torch.autocast(device.type, amp, enabled=amp is not None):
            outputs = forward(images, tuple(targets))
        optimizer.backward(objective(outputs, targets))
        optimizer.step(step)
        images_seen += len(images)
    kept = optimizer.moments(keep_moments)
    return TrainingResult(objective.means(), images_seen, steps, kept)


def trainable(cohort: Cohort, tasks: Sequence[str]) -> NDArray[np.intp]:
    """Return the training images with a label of `tasks`.

    Raises
    ------
    DataError
        There is none.
    """
    indices = cohort.training_indices(tasks)
    if len(indices) == 0:
        raise DataError(f"no training image has a label of {', '.join(tasks)}")
    return indices


def _steps(config: FederationConfig, strata: Sequence[tuple[NDArray[np.intp], int]]) -> int:
    """Return the optimiser steps of a round; see `Cohort.strata`."""
    return steps_per_round(config.training, max(-(-len(own) // n) for own, n in strata))


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
