"""Protections beyond the policies of the sites: secure aggregation and differential privacy."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from mdmt.algorithms import Algorithm
from mdmt.strict import Positive, Strict
from mdmt.tasks import Task

if TYPE_CHECKING:
    from mdmt.config.federation import FederationConfig


class DifferentialPrivacy(Strict):
    """DP-SGD on patients, at every site (Abadi et al. 2016)."""

    noise_multiplier: Positive
    """σ: the standard deviation of the noise, divided by `clip`."""
    clip: Positive = 1.0
    """Largest norm of the gradient of one patient."""
    sample_rate: Annotated[float, Field(gt=0, le=1)]
    """q: the probability that a patient is in the batch of a step."""


class PrivacyConfig(Strict):
    """What the server of a federation cannot read."""

    secure_aggregation: bool = False
    """The server gets only the sum of the updates of all sites."""
    update_bound: Annotated[float, Field(gt=0, le=1024)] = 1.0
    """B: with secure aggregation, |w·Δ| of each weight of a site is clipped to it."""
    dp: DifferentialPrivacy | None = None
    """Differential privacy of each site's training patients."""


def dp_conflicts(config: FederationConfig) -> Iterator[str]:
    """Yield each key that a federation cannot have with `privacy.dp`, and the reason."""
    if config.privacy.dp is None:
        return
    training = config.training
    if config.aggregation.weighting != "uniform":
        yield "aggregation.weighting must be uniform, because sites withhold their counts"
    if config.references:
        yield "references must be [], because they are computed from the training labels"
    if training.scheduler.name == "plateau":
        yield "training.scheduler must not be plateau, because sites withhold validation metrics"
    if training.refit_heads:
        yield "training.refit_heads must be false, because the test would show the refitted labels"
    if training.amp != "none":
        yield "training.amp must be none, because gradients of single patients are computed"
    if training.compile:
        yield "training.compile must be false, because gradients of single patients are computed"
    for name, task in config.tasks.items():
        if task.class_weights != "none":
            yield f"tasks.{name}.class_weights must be none, because they are counts of labels"
        if type(task.space).loss is not Task.loss:
            yield f"tasks.{name}: the loss of {task.space.kind} is not a sum over patients"


def secure_conflicts(config: FederationConfig) -> Iterator[str]:
    """Yield each key that a federation cannot have with secure aggregation, and the reason."""
    if not config.privacy.secure_aggregation:
        return
    algorithm = config.algorithm
    if algorithm.needs != "sum":
        yield f"algorithm must not be {algorithm.name}, which needs the update of every site"
    if type(algorithm).broadcast is not Algorithm.broadcast:
        yield f"algorithm must not be {algorithm.name}, which sends other arrays to each site"
    if config.aggregation.fraction < 1:
        yield "aggregation.fraction must be 1, because the masks of all sites cancel only together"
    for key in ("up", "down"):
        if getattr(config.wire, key) != "float32":
            yield f"wire.{key} must be float32, because masked updates are exact numbers"
