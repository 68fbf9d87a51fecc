"""The numbers of a plan: steps, sizes, and the patients behind a message."""

from __future__ import annotations

from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from client.deployment.plan import Plan
from client.patients import labelled_patients
from mdmt.config import TrainingConfig
from mdmt.data.batches import batches_per_epoch
from mdmt.data.cache import POSITION, default_cache_dir
from mdmt.data.manifest import Split
from mdmt.models import MDMTModel, build_model, get_arrays, uploaded_names
from mdmt.privacy.accounting import private_steps
from mdmt.seeds import derive_seed
from mdmt.training import round_batches, steps_per_round
from mdmt.wire import Codec


class Facts:
    """The numbers of a plan. They are computed when they are first used."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan

    @cached_property
    def model(self) -> MDMTModel:
        """The model of the site, with random weights."""
        return build_model(self.plan.federation, self.plan.tasks, weights=False)

    @cached_property
    def update_bytes(self) -> int:
        """Size of the arrays of an update."""
        federation, model = self.plan.federation, self.model
        if federation.privacy.secure_aggregation:  # zeros for the heads of other sites
            model = build_model(federation, tuple(federation.tasks), weights=False)
        arrays = get_arrays(model, uploaded_names(model, federation.aggregation))
        return len(Codec(federation.wire).upload(arrays, arrays, {})[0])

    @property
    def private(self) -> bool:
        """True if the recipe has differential privacy."""
        return self.plan.federation.privacy.dp is not None

    @property
    def cache_bytes(self) -> int:
        """Size of the image cache."""
        size = self.plan.federation.model.image_size
        return len(self.plan.manifest) * (size * size + POSITION.itemsize)

    @property
    def threads(self) -> int:
        """CPU threads of the training."""
        return self.plan.site.threads or self.plan.federation.training.threads

    @property
    def steps(self) -> int:
        """Optimiser steps of a round."""
        if self.private:
            return private_steps(self.plan.federation)
        return self.plan.federation.algorithm.round_steps(self._batches)

    @property
    def _batches(self) -> int:
        """Batches of a round. An algorithm can use them more than once."""
        images = len(self.plan.cohort.training_indices(self.plan.tasks))
        return steps_per_round(self.plan.federation.training, images)

    @cached_property
    def training_patients(self) -> tuple[int, int]:
        """Fewest patients of a task in the batches of a round, and patients of the training split.

        The batches are those of the training: their order follows from the recipe. Tasks without a
        label in them do not count. With differential privacy any patient may be drawn, by a secret
        of the site.
        """
        plan, training = self.plan, self.plan.federation.training
        indices = plan.cohort.training_indices(plan.tasks)
        everybody = len(np.unique(plan.manifest.patients[indices]))
        fewest = self._fewest(indices)
        if self.private or self._batches >= batches_per_epoch(len(indices), training.batch_size):
            return fewest, everybody
        for number in range(1, training.rounds + 1):
            seed = derive_seed(plan.federation.seed, "train", plan.site.name, number)
            batches = round_batches(plan.cohort, plan.federation, plan.tasks, seed)
            fewest = min(fewest, self._fewest(np.concatenate(list(batches))))
        return fewest, everybody

    def _fewest(self, images: NDArray[np.intp]) -> int:
        """Fewest patients with a label of a task among `images`; 0 without labels."""
        behind = [len(labelled_patients(self.plan.cohort, t, images)) for t in self.plan.tasks]
        return min(filter(None, behind), default=0)

    def patients(self, split: Split) -> int:
        """Fewest patients behind a metric of a task on a split; tasks without labels do not count.

        0 if no task has a label there.
        """
        manifest, rows = self.plan.manifest, self.plan.manifest.indices(split)
        counts = []
        for task in self.plan.tasks:
            labelled = rows[np.isfinite(manifest.targets[task][rows]).any(axis=1)]
            counts.append(len(np.unique(manifest.patients[labelled])))
        return min((count for count in counts if count), default=0)


def schedule(training: TrainingConfig) -> str:
    """Describe the length of a round."""
    if training.local_steps is not None:
        return f"{training.local_steps} batches"
    epochs = training.local_epochs or 1
    return f"{epochs} pass{'es' if epochs > 1 else ''} over the training images"


def cache_folder(plan: Plan) -> str:
    """Return the folder of the image cache."""
    return str(plan.site.cache_dir or default_cache_dir())
