"""Test predictions of a simulated run. In a deployment they stay at the sites."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from mdmt.checkpoints import RoundFiles
from mdmt.errors import StateError
from mdmt.results.predictions import Predictions
from mdmt.results.runs import Run


def simulated_predictions(run: Run) -> Iterator[Predictions]:
    """Yield the predictions of the released model for each task and site, where they are kept.

    A run of a deployment has none, and one of version 0.3 or earlier neither. Patients and images
    have numbers instead of names.
    """
    if run.metrics is None or run.release is None:
        return
    for task in run.config.tasks:
        space, number = run.config.space(task), run.release["rounds"].get(task)
        for site, _ in run.tests(task):
            if site not in run.config.sites or number is None:
                continue
            state = run.config.sites[site].state_root / run.config.name / run.release["run"]
            try:
                found = RoundFiles(state / "tests", {}).load(number).tensors
                names = f"predictions.{task}", f"targets.{task}", "patients"
                predictions, targets, patients = (found[name].numpy() for name in names)
            except (StateError, KeyError):
                continue
            yield Predictions(
                arm="federated",
                backbone=run.config.model.backbone,
                seed=run.config.seed,
                site=site,
                task=task,
                space=space,
                images=tuple(("", str(image)) for image in range(len(targets))),
                patients=np.char.mod("%d", patients),
                targets=np.asarray(targets, dtype=np.float64),
                predictions=predictions,
            )
