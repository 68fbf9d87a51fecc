"""What an arm gets for one cell, and what it returns."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from mdmt.config import FederationConfig
from mdmt.data.cohort import Cohort
from mdmt.errors import RunError
from mdmt.evaluation import predict_outputs
from mdmt.models import MDMTModel
from mdmt.tasks.base import FloatArray
from mdmt.training import resolve_device
from simulation.study.config import StudyConfig


@dataclass(frozen=True)
class Bench:
    """What an arm gets.

    Attributes
    ----------
    study : StudyConfig
    arm : Arm
        One of ``study.arms``.
    config : FederationConfig
        The federation of this cell: the recipe of its arm, its seed and backbone; sites as they
        read this fold.
    cohorts : dict of str to Cohort
        By site, divided by this fold.
    work : Path
        Folder for the arm's files; it is removed afterwards.
    """

    study: StudyConfig
    arm: Any
    config: FederationConfig
    cohorts: Mapping[str, Cohort]
    work: Path

    @property
    def device(self) -> torch.device:
        """Device of central arms: that of the first site."""
        return resolve_device(self.config.sites[min(self.config.sites)].device)

    def tasks(self, site: str) -> list[str]:
        """Tasks of a site, in the federation's order."""
        return [task for task in self.config.tasks if task in self.config.sites[site].tasks]

    def sites(self, task: str) -> list[str]:
        """Sites that have a task, sorted."""
        return [site for site in sorted(self.cohorts) if task in self.config.sites[site].tasks]


@dataclass
class Outcome:
    """What an arm returns.

    Attributes
    ----------
    predictions : dict of (str, str) to ndarray
        Site and task → predictions of the site's test images, float64 (N, P).
    elsewhere : dict of (str, str, str) to ndarray
        Site of a model, another site that tests it, and task → predictions, float64 (N, P).
    steps : dict of str to int
        Target site → optimiser steps that saw its images of the target.
    history : list of dict
        Learning curves, as the lines of a run's ``history.jsonl``.
    """

    predictions: dict[tuple[str, str], FloatArray] = field(default_factory=dict)
    elsewhere: dict[tuple[str, str, str], FloatArray] = field(default_factory=dict)
    steps: dict[str, int] = field(default_factory=dict)
    history: Sequence[dict[str, Any]] = ()

    def predict(self, bench: Bench, site: str, task: str, model: MDMTModel) -> None:
        """Let the model of a site predict the test images of all sites that have the task."""
        self.predictions[site, task] = _predictions(bench, site, task, model)
        for other in bench.sites(task):
            if other != site:
                predictions = _predictions(bench, other, task, model)
                self.elsewhere[site, other, task] = predictions

    def check(self, study: StudyConfig) -> None:
        """Refuse a result that lacks what arms are compared on."""
        missing = [s for s in study.target_sites() if (s, study.target) not in self.predictions]
        if missing:
            raise RunError(f"it predicts no {study.target} at {', '.join(missing)}")


def _predictions(bench: Bench, site: str, task: str, model: MDMTModel) -> FloatArray:
    cohort, device = bench.cohorts[site], bench.device
    test = cohort.manifest.indices("test")
    outputs = predict_outputs(model.to(device), cohort, test, bench.config, [task], device)
    return bench.config.space(task).decode(outputs[task].numpy())
