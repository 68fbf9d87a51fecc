"""The patients behind a message: those whose images are in the batches of a round."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from mdmt.config import FederationConfig
from mdmt.config.site import Policy
from mdmt.data.batches import batches_per_epoch
from mdmt.data.cohort import Cohort
from mdmt.errors import PolicyError
from mdmt.training import round_batches


def check_patients(
    policy: Policy,
    federation: FederationConfig,
    cohort: Cohort,
    coefficients: Mapping[str, float],
    seed: int,
) -> frozenset[str]:
    """Refuse a round whose batches have too few distinct patients, before any training.

    Every trained task needs enough of them. Otherwise a server could give a task that all patients
    have a coefficient of almost 0, and would get the update of the few patients of another task.

    Parameters
    ----------
    policy : Policy
    federation : FederationConfig
    cohort : Cohort
    coefficients : mapping of str to float
        c_t of the tasks of the round. 0 does not train a task, but its loss is computed.
    seed : int
        The seed of the round, as `mdmt.training.train` takes it.

    Returns
    -------
    frozenset of str
        Tasks with a coefficient of 0 whose loss must be withheld, because too few of these patients
        have a label of it.

    Raises
    ------
    PolicyError
        The message does not contain the number of patients.
    """
    minimum = policy.min_patients_per_update
    if not minimum:
        return frozenset()
    behind: dict[str, set[str]] = {task: set() for task in coefficients}
    images = cohort.training_indices([*behind])
    # One pass over the images shows all patients.
    most = batches_per_epoch(len(images), federation.training.batch_size)
    batches: Iterator[NDArray[np.intp]] = islice(
        round_batches(cohort, federation, [*behind], seed), most
    )
    if federation.privacy.dp is not None:
        # Patients are drawn with a secret. Whom a round drew must not show in a refusal.
        batches = iter([images])
    trained = {task for task, c in coefficients.items() if c > 0}
    for batch in batches:
        for task, patients in behind.items():
            patients |= labelled_patients(cohort, task, batch)
        if trained and all(len(patients) >= minimum for patients in behind.values()):
            return frozenset()
    few = {task for task, patients in behind.items() if 0 < len(patients) < minimum}
    if few & trained or not any(behind[task] for task in trained):
        of = f" with a label of {min(few & trained)}" if few & trained else ""
        raise PolicyError(
            f"policy: min_patients_per_update asks for {minimum} patients in the batches of a"
            f" round, this round has fewer{of}"
        )
    return frozenset(few)


def labelled_patients(cohort: Cohort, task: str, images: NDArray[np.intp]) -> set[str]:
    """Return the patients with a label of `task` among `images`."""
    manifest = cohort.manifest
    labelled = np.isfinite(manifest.targets[task][images]).any(axis=1)
    return set(manifest.patients[images[labelled]].tolist())
