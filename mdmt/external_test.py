"""Evaluate a release on labelled data that took no part in its training."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from mdmt.config import FederationConfig
from mdmt.data.cohort import Cohort
from mdmt.data.subgroups import subgroups
from mdmt.evaluation import predict_outputs
from mdmt.metrics import bootstrap_interval, comparable, count_patients, evaluate_task
from mdmt.models import MDMTModel
from mdmt.seeds import derive_seed
from mdmt.tasks import Task
from mdmt.tasks.base import FloatArray

Measured = dict[str, Any]
"""``patients``, ``examples`` and ``metrics`` by name; the first two are None if withheld."""


@dataclass(frozen=True)
class _Predicted:
    """The predictions of one head for N images."""

    space: Task
    predictions: FloatArray
    targets: FloatArray
    patients: NDArray[np.str_]
    seed: int
    least: int

    def measure(self, chosen: NDArray[np.bool_]) -> Measured:
        """Return the metrics of the chosen images, (N,)."""
        space, patients = self.space, self.patients[chosen]
        predictions, targets = self.predictions[chosen], self.targets[chosen]
        count = count_patients(space, targets, patients)["patients"]
        if 0 < count < self.least:
            return {"patients": None, "examples": None, "metrics": {}}
        found = evaluate_task(space, predictions, targets)
        metrics = {name: {"value": found.get(name)} for name in space.shown_metrics}
        if comparable(space, targets, patients):
            low, high = bootstrap_interval(
                space, predictions, targets, patients, space.primary, seed=self.seed
            )
            metrics[space.primary] |= {"low": low, "high": high}
        return {"patients": count, "examples": found["examples"], "metrics": metrics}

    def divide(self, groups: NDArray[np.str_]) -> dict[str, Measured]:
        """Return the metrics of each group. One withheld group alone could be computed."""
        found = {group: self.measure(groups == group) for group in sorted(set(groups.tolist()))}
        shown = {group: of["patients"] for group, of in found.items() if of["patients"]}
        if len([of for of in found.values() if of["patients"] is None]) == 1 and shown:
            smallest = min(shown, key=lambda group: (shown[group], group))
            found[smallest] = {"patients": None, "examples": None, "metrics": {}}
        return found


def evaluate_release(
    models: Iterable[tuple[str, str, MDMTModel]],
    cohort: Cohort,
    config: FederationConfig,
    device: torch.device,
    least: int,
) -> dict[str, dict[str, Any]]:
    """Evaluate heads on all images of a cohort, whatever their splits.

    Parameters
    ----------
    models : iterable of (str, str, MDMTModel)
        Task, site of the head (empty for a shared head) and model.
    cohort : Cohort
        `Manifest.columns` make the subgroups.
    config : FederationConfig
    device : torch.device
    least : int
        Smallest number of patients behind a reported number.

    Returns
    -------
    dict
        Task → site of the head → ``{"all": Measured, "subgroups": {column: {group: Measured}}}``.
    """
    manifest = cohort.manifest
    groups, everyone = subgroups(manifest.columns), np.arange(len(manifest))
    results: dict[str, dict[str, Any]] = {}
    for task, site, model in models:
        if task not in manifest.targets:
            continue
        space = config.space(task)
        outputs = predict_outputs(model.to(device), cohort, everyone, config, [task], device)
        predicted = _Predicted(
            space,
            space.decode(outputs[task].numpy()),
            manifest.targets[task],
            manifest.patients,
            derive_seed(config.seed, "bootstrap", task),
            least,
        )
        results.setdefault(task, {})[site] = {
            "all": predicted.measure(np.full(len(manifest), True)),
            "subgroups": {column: predicted.divide(of) for column, of in groups.items()},
        }
    return results
