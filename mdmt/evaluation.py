"""Predictions and metrics of a model on one split."""

from collections.abc import Iterable
from typing import Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mdmt.config import FederationConfig
from mdmt.data.batches import load_images, normalise
from mdmt.data.cohort import Cohort
from mdmt.data.manifest import Split
from mdmt.metrics import bootstrap_interval, evaluate_task
from mdmt.models import MDMTModel
from mdmt.seeds import derive_seed

Metrics = dict[str, float | int | None]
Held = Literal["val", "test"]


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
    *,
    intervals: bool = False,
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
    intervals : bool
        Add ``task/<primary>_low`` and ``_high``: the patient-level bootstrap 95 % interval.

    Returns
    -------
    dict
        ``task/examples`` is the number of labelled images. An undefined metric is None.
    """
    indices = cohort.manifest.indices(split)
    result: Metrics = {}
    for task, outputs in predict_outputs(model, cohort, indices, config, tasks, device).items():
        space = config.space(task)
        targets = cohort.manifest.targets[task][indices]
        predictions = space.decode(outputs.numpy())
        metrics: Metrics = dict(evaluate_task(space, predictions, targets))
        if metrics["examples"]:
            metrics["loss"] = space.loss(outputs, torch.from_numpy(targets))[0].item()
        if intervals:
            metrics[f"{space.primary}_low"], metrics[f"{space.primary}_high"] = bootstrap_interval(
                space,
                predictions,
                targets,
                cohort.manifest.patients[indices],
                space.primary,
                seed=derive_seed(config.seed, "bootstrap", task),
            )
        result |= {f"{task}/{name}": value for name, value in metrics.items()}
    return result


def evaluate_splits(
    model: MDMTModel,
    cohort: Cohort,
    config: FederationConfig,
    tasks: Iterable[str],
    device: torch.device,
) -> dict[Held, Metrics]:
    """Call `evaluate` on validation, and on test with intervals."""
    return {
        split: evaluate(model, cohort, split, config, tasks, device, intervals=split == "test")
        for split in get_args(Held)
    }


def evaluate_constant(
    cohort: Cohort, split: Split, config: FederationConfig, tasks: Iterable[str]
) -> Metrics:
    """Return the metrics on `split` of the best constant prediction of the training labels."""
    indices = cohort.manifest.indices(split)
    train = cohort.manifest.indices("train")
    result: Metrics = {}
    for task in tasks:
        space = config.space(task)
        constant = space.constant(cohort.manifest.targets[task][train])
        targets = cohort.manifest.targets[task][indices]
        predictions = np.tile(constant, (len(indices), 1))
        metrics = evaluate_task(space, predictions, targets)
        result |= {f"{task}/{name}": value for name, value in metrics.items()}
    return result
