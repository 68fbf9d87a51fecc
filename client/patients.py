"""The patients behind a message: those whose images are in the batches of a round."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from mdmt.config import FederationConfig
from mdmt.config.site import Policy
from mdmt.data.cohort import Cohort
from mdmt.errors import PolicyError
from mdmt.training import round_batches


def check_patients(
    policy: Policy, federation: FederationConfig, cohort: Cohort, tasks: Iterable[str], seed: int
) -> frozenset[str]:
    """Refuse a round whose batches have too few distinct patients, before any training.

    Parameters
    ----------
    policy : Policy
    federation : FederationConfig
    cohort : Cohort
    tasks : iterable of str
        Tasks that the round trains.
    seed : int
        The seed of the round, as `mdmt.training.train` takes it.

    Returns
    -------
    frozenset of str
        Tasks whose loss must be withheld, because too few of these patients have a label of it.

    Raises
    ------
    PolicyError
        The message does not contain the number of patients.
    """
    tasks, minimum = tuple(tasks), policy.min_patients_per_update
    if not minimum:
        return frozenset()
    manifest = cohort.manifest
    labelled: dict[str, NDArray[np.bool_]] = {
        task: np.asarray(np.isfinite(manifest.targets[task]).any(axis=1)) for task in tasks
    }
    everybody: set[str] = set()
    behind: dict[str, set[str]] = {task: set() for task in tasks}
    batches: Iterable[NDArray[np.intp]] = round_batches(cohort, federation, tasks, seed)
    if federation.privacy.dp is not None:
        # Patients are drawn with a secret. Whom a round drew must not show in a refusal.
        batches = [cohort.training_indices(tasks)]
    for batch in batches:
        everybody.update(manifest.patients[batch].tolist())
        for task, patients in behind.items():
            patients.update(manifest.patients[batch[labelled[task][batch]]].tolist())
        if all(len(patients) >= minimum for patients in behind.values()):
            return frozenset()
    if len(everybody) < minimum:
        raise PolicyError(
            f"policy: min_patients_per_update asks for {minimum} patients in the batches of a"
            " round, this round has fewer"
        )
    return frozenset(task for task, patients in behind.items() if len(patients) < minimum)
