"""Compare the evaluated models with the references, where the predictions are: at the site.

The evaluation of a round keeps the predictions of the test images in the state of the site. The
later order for the references compares them with those of each reference. Only differences and
their intervals are sent.
"""

from __future__ import annotations

import numpy as np
import torch

from mdmt.checkpoints import RoundFiles
from mdmt.compare import paired_differences
from mdmt.config import FederationConfig
from mdmt.data.cohort import Cohort
from mdmt.evaluation import Evaluated
from mdmt.messages import Metrics
from mdmt.seeds import derive_seed


def keep_predictions(files: RoundFiles, number: int, found: Evaluated, cohort: Cohort) -> None:
    """Write the test predictions of the model of a round, and what they are compared with.

    Parameters
    ----------
    files : RoundFiles
        Of the run mode ``tests``.
    number : int
        The round.
    found : Evaluated
    cohort : Cohort
    """
    manifest, test = cohort.manifest, cohort.manifest.indices("test")
    # A number for each patient, not the id.
    codes = np.unique(manifest.patients[test], return_inverse=True)[1]
    tensors = {"patients": torch.from_numpy(codes)}
    for task, predictions in found.predictions.items():
        tensors[f"predictions.{task}"] = torch.from_numpy(predictions)
        tensors[f"targets.{task}"] = torch.from_numpy(manifest.targets[task][test])
    files.save(number, tensors)


def compare_with_reference(
    files: RoundFiles, reference: Evaluated, cohort: Cohort, federation: FederationConfig
) -> dict[int, Metrics]:
    """Compare the kept models with a reference on the test patients of the site.

    Parameters
    ----------
    files : RoundFiles
        Of the run mode ``tests``.
    reference : Evaluated
    cohort : Cohort
    federation : FederationConfig

    Returns
    -------
    dict
        Round → ``task/<primary>``: model minus reference, with ``_low`` and ``_high``, the ends of
        its 95 % interval over patients; None if there are too few patients. A round that was
        evaluated on other data is left out.
    """
    manifest, test = cohort.manifest, cohort.manifest.indices("test")
    result: dict[int, Metrics] = {number: {} for number in files.rounds()}
    kept = {number: files.load(number).tensors for number in result}
    for task, predicted in reference.predictions.items():
        space, targets = federation.space(task), manifest.targets[task][test]
        models = {
            str(number): tensors[f"predictions.{task}"].numpy()
            for number, tensors in kept.items()
            if np.array_equal(tensors[f"targets.{task}"].numpy(), targets, equal_nan=True)
        }
        for number, difference in paired_differences(
            space,
            models,
            predicted,
            targets,
            manifest.patients[test],
            seed=derive_seed(federation.seed, "bootstrap", task),
        ).items():
            for end, value in zip(("", "_low", "_high"), difference, strict=True):
                result[int(number)][f"{task}/{space.primary}{end}"] = value
    return result
