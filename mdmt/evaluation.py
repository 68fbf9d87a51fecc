"""Predictions and metrics of a model on one split."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mdmt.config import FederationConfig
from mdmt.data.batches import load_images, normalise
from mdmt.data.cohort import Cohort
from mdmt.data.manifest import Split
from mdmt.metrics import bootstrap_interval, count_patients, evaluate_task
from mdmt.models import MDMTModel
from mdmt.seeds import derive_seed
from mdmt.tasks.base import FloatArray

Metrics = dict[str, float | int | None]
Held = Literal["val", "test"]


@dataclass(frozen=True)
class Evaluated:
    """A model on the held-out data of one site.

    Attributes
    ----------
    metrics : dict
        Split → ``task/metric`` → value.
    predictions : dict of str to ndarray
        Task → predictions of the test images, float64, (N, len(prediction_names)). They stay at
        the site.
    """

    metrics: dict[Held, Metrics]
    predictions: dict[str, FloatArray]


@torch.inference_mode()
def predict_outputs(
    model: MDMTModel,
    cohort: Cohort,
    indices: NDArray[np.intp],
    config: FederationConfig,
    tasks: Iterable[str],
    device: torch.device,
) -> dict[str, Tensor]:
    """Return the outputs of each task, (len(indices), n_outputs), float32 on the CPU."""
    model.eval()
    tasks = list(tasks)
    parts: dict[str, list[Tensor]] = {task: [] for task in tasks}
    size = config.training.evaluation_batch_size
    for start in range(0, len(indices), size):
        batch = indices[start : start + size]
        outputs = model(normalise(load_images(cohort, batch, device), config), tasks)
        for task in tasks:
            parts[task].append(outputs[task].float())
    return {
        task: torch.cat(rows).cpu() if rows else torch.empty(0, config.space(task).n_outputs)
        for task, rows in parts.items()
    }


def evaluate(
    model: MDMTModel,
    cohort: Cohort,
    split: Split,
    config: FederationConfig,
    tasks: Iterable[str],
    device: torch.device,
) -> Metrics:
    """Return the metrics of every task on `split`, named ``task/metric``.

    Parameters
    ----------
    model : MDMTModel
    cohort : Cohort
    split : {"train", "val", "test"}
    config : FederationConfig
    tasks : iterable of str
    device : torch.device

    Returns
    -------
    dict
        ``task/examples`` is the number of labelled images, ``task/loss`` the loss. An undefined
        metric is None.
    """
    indices = cohort.manifest.indices(split)
    outputs = predict_outputs(model, cohort, indices, config, tasks, device)
    return _measure(outputs, cohort, split, config)


def evaluate_model(
    model: MDMTModel,
    cohort: Cohort,
    config: FederationConfig,
    tasks: Iterable[str],
    device: torch.device,
) -> Evaluated:
    """Evaluate a model on validation and test: see `evaluate_held`."""
    return evaluate_held(dict.fromkeys(get_args(Held), model), cohort, config, tasks, device)


def evaluate_held(
    models: Mapping[Held, MDMTModel],
    cohort: Cohort,
    config: FederationConfig,
    tasks: Iterable[str],
    device: torch.device,
) -> Evaluated:
    """Evaluate a model on each split: its metrics, and its predictions of the test images.

    In addition to `evaluate` there are the numbers of patients (`count_patients`), and on test
    ``task/<primary>_low`` and ``_high``: the patient-level bootstrap 95 % interval.
    """
    tasks, metrics, predictions = list(tasks), dict[Held, Metrics](), dict[str, FloatArray]()
    for split, model in models.items():
        indices = cohort.manifest.indices(split)
        outputs = predict_outputs(model, cohort, indices, config, tasks, device)
        metrics[split] = _measure(outputs, cohort, split, config)
        metrics[split] |= _count_of_tasks(cohort, split, config, tasks)
        if split == "test":
            predictions = {t: config.space(t).decode(of.numpy()) for t, of in outputs.items()}
            metrics[split] |= _intervals(predictions, cohort, config)
    return Evaluated(metrics, predictions)


def _count_of_tasks(
    cohort: Cohort, split: Split, config: FederationConfig, tasks: Iterable[str]
) -> Metrics:
    """Return the numbers of patients behind the metrics of tasks: see `count_patients`."""
    manifest, indices = cohort.manifest, cohort.manifest.indices(split)
    patients = manifest.patients[indices]
    return {
        f"{task}/{name}": number
        for task in tasks
        for name, number in count_patients(
            config.space(task), manifest.targets[task][indices], patients
        ).items()
    }


def _intervals(
    predictions: Mapping[str, FloatArray], cohort: Cohort, config: FederationConfig
) -> Metrics:
    """Return the ends of the test interval of each task's primary metric."""
    indices, result = cohort.manifest.indices("test"), Metrics()
    for task, predicted in predictions.items():
        space = config.space(task)
        name, targets = space.primary, cohort.manifest.targets[task][indices]
        patients = cohort.manifest.patients[indices]
        seed = derive_seed(config.seed, "bootstrap", task)
        ends = bootstrap_interval(space, predicted, targets, patients, name, seed=seed)
        result |= {f"{task}/{name}_low": ends[0], f"{task}/{name}_high": ends[1]}
    return result


def _measure(
    outputs: Mapping[str, Tensor], cohort: Cohort, split: Split, config: FederationConfig
) -> Metrics:
    """Return the metrics of each task's outputs of the images of `split`."""
    indices, result = cohort.manifest.indices(split), Metrics()
    for task, of_task in outputs.items():
        space, targets = config.space(task), cohort.manifest.targets[task][indices]
        metrics: Metrics = dict(evaluate_task(space, space.decode(of_task.numpy()), targets))
        if metrics["examples"]:
            metrics["loss"] = space.loss(of_task, torch.from_numpy(targets))[0].item()
        result |= {f"{task}/{name}": value for name, value in metrics.items()}
    return result


def evaluate_constant(cohort: Cohort, config: FederationConfig, tasks: Iterable[str]) -> Evaluated:
    """Evaluate the best constant prediction of the training labels, on validation and test."""
    manifest, predictions = cohort.manifest, dict[str, FloatArray]()
    metrics: dict[Held, Metrics] = {split: {} for split in get_args(Held)}
    for task in tasks:
        space, targets = config.space(task), manifest.targets[task]
        constant = space.constant(targets[manifest.indices("train")])
        for split in get_args(Held):
            indices = manifest.indices(split)
            predictions[task] = np.tile(constant, (len(indices), 1))
            found = evaluate_task(space, predictions[task], targets[indices])
            metrics[split] |= {f"{task}/{name}": value for name, value in found.items()}
    return Evaluated(metrics, predictions)
