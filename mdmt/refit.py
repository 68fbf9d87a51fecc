"""Refit linear heads on a frozen backbone: those of a release, and those of the probe.

A site trains its head together with its own backbone. Then the server averages the backbones, and
the head does not fit any more. Tayebi Arasteh et al. (2023, doi 10.1038/s41598-023-33303-y) train
the heads on the final backbone for this reason.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from mdmt.config import FederationConfig, HeadConfig
from mdmt.data.cohort import Cohort
from mdmt.enough import enough_to_choose
from mdmt.errors import DataError
from mdmt.evaluation import Evaluated, Held, evaluate, evaluate_held, predict_outputs
from mdmt.linear_heads import fit_linear_head
from mdmt.metrics import count_patients
from mdmt.models import MDMTModel
from mdmt.models.backbones import feature_width
from mdmt.models.heads import build_head
from mdmt.seeds import derive_seed


def linear_probe(model: MDMTModel, config: FederationConfig, tasks: Iterable[str]) -> MDMTModel:
    """Return a model with the backbone of `model` and a linear head for each task."""
    width = feature_width(model.backbone)
    heads = {t: build_head(HeadConfig(), width, config.space(t).n_outputs) for t in tasks}
    return MDMTModel(model.backbone, heads).to(next(model.parameters()).device)


class Refitted(NamedTuple):
    """Models with the backbone of another model and refitted heads."""

    final: MDMTModel
    """Heads fitted on the training and validation images. It is tested and released."""
    early: MDMTModel
    """Heads fitted on the training images only. It is validated."""
    tasks: frozenset[str]
    """Tasks with a refitted head. The others have kept their trained head in both models."""


def refit_heads(
    model: MDMTModel,
    cohort: Cohort,
    config: FederationConfig,
    tasks: Iterable[str],
    device: torch.device,
    *,
    choose: bool = True,
) -> Refitted:
    """Refit the last layer of each head on the training and validation images of a site.

    Each image passes the backbone once, without augmentation; see `fit_linear_head`.

    Parameters
    ----------
    model : MDMTModel
        On `device`. It is not changed.
    cohort : Cohort
    config : FederationConfig
    tasks : iterable of str
    device : torch.device
    choose : bool
        Keep the trained head of a task if validation prefers it and is large enough to tell
        (`enough_to_choose`).

    Raises
    ------
    DataError
        No training image has a label of a task.
    """
    train, held = (cohort.manifest.indices(split) for split in ("train", "val"))
    both = np.concatenate([train, held])
    inputs = _head_inputs(model, cohort, both, config, tasks, device)
    early = _with_heads(
        model, cohort, config, train, {t: z[: len(train)] for t, z in inputs.items()}
    )
    kept = _preferred(model, early, cohort, config, inputs, device) if choose else set()
    for task in kept:
        early.heads[task] = model.heads[task]
    new = {task: values for task, values in inputs.items() if task not in kept}
    final = _with_heads(model, cohort, config, both, new)
    return Refitted(final, early, frozenset(new))


def evaluate_refitted(
    refitted: Refitted,
    cohort: Cohort,
    config: FederationConfig,
    tasks: Iterable[str],
    device: torch.device,
) -> Evaluated:
    """Validate the early model, and test the final one with intervals.

    ``task/refitted`` is 1 if the head of the task was refitted, 0 if the trained head was kept.
    """
    tasks = list(tasks)
    models: dict[Held, MDMTModel] = {"val": refitted.early, "test": refitted.final}
    found = evaluate_held(models, cohort, config, tasks, device)
    found.metrics["test"] |= {f"{task}/refitted": int(task in refitted.tasks) for task in tasks}
    return found


def _head_inputs(
    model: MDMTModel,
    cohort: Cohort,
    indices: NDArray[np.intp],
    config: FederationConfig,
    tasks: Iterable[str],
    device: torch.device,
) -> dict[str, Tensor]:
    """Return the inputs of the last layer of each head, float32 (len(indices), F) on the CPU."""
    inner = {task: _layers(model.heads[task])[:-1] for task in tasks}
    features = MDMTModel(model.backbone, inner).to(device)
    return predict_outputs(features, cohort, indices, config, inner, device)


def _with_heads(
    model: MDMTModel,
    cohort: Cohort,
    config: FederationConfig,
    indices: NDArray[np.intp],
    inputs: Mapping[str, Tensor],
) -> MDMTModel:
    """Return a model whose heads of the tasks in `inputs` are fitted on `indices`."""
    heads: dict[str, nn.Module] = {task: copy.deepcopy(head) for task, head in model.heads.items()}
    for task, values in inputs.items():
        space, targets = config.space(task), cohort.manifest.targets[task][indices]
        if not np.isfinite(targets).any():
            raise DataError(f"no training image has a label of {task}")
        balanced = config.tasks[task].class_weights == "balanced"
        weights = space.balanced_weights(targets) if balanced else None
        fitted = fit_linear_head(
            space,
            values,
            torch.from_numpy(targets),
            cohort.manifest.patients[indices],
            seed=derive_seed(config.seed, "refit", task),
            class_weights=None if weights is None else torch.from_numpy(weights),
        )
        last = _layers(heads[task])[-1]
        assert isinstance(last, nn.Linear), "a head ends with a linear layer"
        with torch.no_grad():
            last.weight.copy_(fitted.weight)
            last.bias.copy_(fitted.bias)
    return MDMTModel(model.backbone, heads)


def _layers(head: nn.Module) -> nn.Sequential:
    assert isinstance(head, nn.Sequential), "build_head builds a sequence of layers"
    return head


def _preferred(
    model: MDMTModel,
    early: MDMTModel,
    cohort: Cohort,
    config: FederationConfig,
    tasks: Iterable[str],
    device: torch.device,
) -> set[str]:
    """Return the tasks whose trained head is better on a validation split that is large enough."""
    able = [task for task in tasks if _large_validation(cohort, config, task)]
    trained, refitted = (evaluate(m, cohort, "val", config, able, device) for m in (model, early))
    kept = set()
    for task in able:
        space = config.space(task)
        before, after = (m[f"{task}/{space.primary}"] for m in (trained, refitted))
        if before is not None and after is not None and before != after:
            higher = space.primary_is_better_when == "higher"
            kept |= {task} if (before > after) == higher else set()
    return kept


def _large_validation(cohort: Cohort, config: FederationConfig, task: str) -> bool:
    held = cohort.manifest.indices("val")
    targets = cohort.manifest.targets[task][held]
    patients = cohort.manifest.patients[held]
    total, *of_each_class = count_patients(config.space(task), targets, patients).values()
    return enough_to_choose(total, of_each_class)
