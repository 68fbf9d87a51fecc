"""What a plan runs at the site, what it sends, and how many patients stand behind each message."""

from __future__ import annotations

from functools import cached_property
from typing import NamedTuple

import numpy as np

from client.budget import open_budget
from client.deployment.plan import Limit, Plan
from client.policy import check_threads
from mdmt.config import TrainingConfig
from mdmt.config.site import Policy
from mdmt.data.batches import batches_per_epoch
from mdmt.data.cache import POSITION, default_cache_dir
from mdmt.data.manifest import Split
from mdmt.errors import PolicyError
from mdmt.models import MDMTModel, build_model, get_arrays, uploaded_names
from mdmt.privacy.accounting import epsilon, private_steps, recipe_mechanism
from mdmt.privacy.ledger import open_ledger
from mdmt.seeds import derive_seed
from mdmt.training import round_batches, steps_per_round
from mdmt.wire import Codec

REPORT = 0.01
"""MB. Largest usual size of a message without arrays."""


class Outgoing(NamedTuple):
    """A kind of message that leaves the site."""

    kind: str
    content: str
    messages: int
    """Largest number in one run."""
    megabytes: float
    """Size of one message, 10^6 bytes."""
    patients: str
    """Whose data is behind one message."""


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
        federation = self.plan.federation
        arrays = get_arrays(self.model, uploaded_names(self.model, federation.aggregation))
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
        images = len(self.plan.cohort.training_indices(self.plan.tasks))
        return steps_per_round(self.plan.federation.training, images)

    @cached_property
    def training_patients(self) -> tuple[int, int]:
        """Fewest distinct patients in the batches of a round, and patients of the training split.

        The batches are those of the training: their order follows from the recipe. With
        differential privacy any patient may be drawn, by a secret of the site.
        """
        plan, training = self.plan, self.plan.federation.training
        indices = plan.cohort.training_indices(plan.tasks)
        patients = plan.manifest.patients
        everybody = len(np.unique(patients[indices]))
        whole = self.steps >= batches_per_epoch(len(indices), training.batch_size)
        if not everybody or whole or self.private:
            return everybody, everybody
        fewest = everybody
        for number in range(1, training.rounds + 1):
            seed = derive_seed(plan.federation.seed, "train", plan.site.name, number)
            batches = round_batches(plan.cohort, plan.federation, plan.tasks, seed)
            behind = np.unique(patients[np.concatenate(list(batches))])
            fewest = min(fewest, len(behind))
        return fewest, everybody

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

    @property
    def rounds_sent(self) -> int:
        """Rounds whose model is tested at the end: the last one, and the best one of each task."""
        federation = self.plan.federation
        return min(federation.training.rounds, 1 + len(federation.tasks))

    def outgoing(self) -> list[Outgoing]:
        """List the messages of one run."""
        federation, policy = self.plan.federation, self.plan.site.policy
        if self.private:
            return self._private_outgoing()
        fewest, everybody = self.training_patients
        val, test = self.patients("val"), self.patients("test")
        held = f"{val} (val), {test} (test)"
        counts = "numbers of images and labels, " if policy.report_counts else ""
        histogram = "how often each label occurs, " if policy.report_histogram else ""
        arrays = "trained backbone"
        if federation.aggregation.heads == "shared":
            arrays += " and heads"
        kinds = [
            Outgoing(
                "site card",
                f"name, tasks, {counts}{histogram}device, versions",
                *(1, REPORT, f"{everybody} (train), {held}"),
            ),
            Outgoing(
                "round",
                f"{arrays}, mean losses, metrics on val",
                federation.training.rounds,
                self.update_bytes / 1e6 + REPORT,
                f"{fewest} (batches), {val} (val)",
            ),
            Outgoing("final test", "metrics on val and test", self.rounds_sent, REPORT, held),
        ]
        if federation.references:
            names = " and ".join(federation.references)
            content = f"metrics of the references {names}"
            kinds.append(Outgoing("references", content, 1, REPORT, held))
        return kinds

    def _private_outgoing(self) -> list[Outgoing]:
        """List the messages under differential privacy: what has no noise is withheld."""
        everybody, test = self.training_patients[1], f"{self.patients('test')} (test)"
        rounds, size = self.plan.federation.training.rounds, self.update_bytes / 1e6 + REPORT
        drawn = f"drawn from {everybody} (train)"
        return [
            Outgoing("site card", "name, tasks, device, versions", 1, REPORT, "nobody"),
            Outgoing("round", "trained backbone, with noise", rounds, size, drawn),
            Outgoing("final test", "metrics on test", self.rounds_sent, REPORT, test),
        ]

    def limits(self) -> tuple[Limit, ...]:
        """Checks that need these numbers."""
        return self._size, self._messages, self._patients, self._machine, self._privacy

    def _size(self, policy: Policy) -> None:
        _at_most("max_upload", policy.max_upload, self.update_bytes / 1e6, "MB")

    def _messages(self, policy: Policy) -> None:
        limit, needed = policy.max_messages, sum(kind.messages for kind in self.outgoing())
        spent = open_budget(self.plan.site).spent(self.plan.sha256)
        if limit is not None and spent + needed > limit:
            earlier = f", {spent} were sent" if spent else ""
            raise PolicyError(
                f"policy: max_messages allows {limit} messages{earlier}, a run needs {needed}"
            )

    def _patients(self, policy: Policy) -> None:
        least, fewest = policy.min_patients_per_update, self.training_patients[0]
        if fewest < least:
            raise PolicyError(
                f"policy: min_patients_per_update asks for {least} patients, a round has {fewest}"
            )

    def _machine(self, policy: Policy) -> None:
        if self.plan.site.threads is None:
            check_threads(policy, self.plan.federation)
        _at_most("max_cache", policy.max_cache, self.cache_bytes / 1e9, "GB")

    def _privacy(self, policy: Policy) -> None:
        privacy = self.plan.federation.privacy
        if policy.secure_aggregation and not privacy.secure_aggregation:
            raise PolicyError("policy: secure_aggregation is needed, the recipe has none")
        mechanism = recipe_mechanism(self.plan.federation)
        if policy.max_epsilon is None or mechanism is None:
            return
        ledger = open_ledger(self.plan.site)
        begun = ledger.path.with_name("dp.secret").exists()  # made with the ledger
        spent = [entry.mechanism for entry in ledger.entries()] if begun else []
        total = epsilon([*spent, mechanism], self.plan.site.policy.delta)
        if not total <= policy.max_epsilon:
            earlier = f"with {epsilon(spent, policy.delta):.2f} that is spent, " if spent else ""
            raise PolicyError(
                f"policy: max_epsilon allows {policy.max_epsilon:g}, {earlier}this recipe needs"
                f" {total:.2f}"
            )


def schedule(training: TrainingConfig) -> str:
    """Describe the length of a round."""
    if training.local_steps is not None:
        return f"{training.local_steps} batches"
    epochs = training.local_epochs or 1
    return f"{epochs} pass{'es' if epochs > 1 else ''} over the training images"


def cache_folder(plan: Plan) -> str:
    """Return the folder of the image cache."""
    return str(plan.site.cache_dir or default_cache_dir())


def _at_most(key: str, limit: float | None, asked: float, unit: str) -> None:
    if limit is not None and asked > limit:
        raise PolicyError(f"policy: {key} allows {limit:g} {unit}, this recipe needs {asked:.4g}")
