"""What a federation is compared with, computed inside the site: only metrics leave it."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import torch

from mdmt.central import central_rounds
from mdmt.checkpoints import RoundFiles
from mdmt.config import FederationConfig
from mdmt.data.cohort import Cohort
from mdmt.evaluation import Held, evaluate_constant, evaluate_splits
from mdmt.messages import Metrics
from mdmt.models import MDMTModel

__all__ = ["constant_metrics", "local_metrics"]

log = logging.getLogger(__name__)


def constant_metrics(
    cohort: Cohort, federation: FederationConfig, tasks: Sequence[str]
) -> dict[Held, Metrics]:
    """Metrics on validation and test of the best constant of the training labels."""
    splits: tuple[Held, ...] = ("val", "test")
    return {s: evaluate_constant(cohort, s, federation, tasks) for s in splits}


def local_metrics(
    model: MDMTModel,
    files: RoundFiles,
    cohort: Cohort,
    federation: FederationConfig,
    site: str,
    rounds: int,
    device: torch.device,
) -> dict[Held, Metrics]:
    """Train a model on this site's data alone; give its metrics on validation and test.

    Each finished round is kept, so that a call that is repeated continues after the last one.

    Parameters
    ----------
    model : MDMTModel
        With the federation's initial values, on `device`.
    files : RoundFiles
    cohort : Cohort
    federation : FederationConfig
    site : str
    rounds : int
        How many; the learning-rate schedule spans them.
    device : torch.device
    """
    tasks = [task for task in federation.tasks if task in cohort.manifest.targets]
    last = files.latest(rounds)
    for done in central_rounds(
        federation,
        {site: cohort},
        tasks,
        model,
        who=site,
        rounds=rounds,
        device=device,
        saved=None if last is None else files.load(last),
    ):
        files.save(done.number, done.tensors(), done.selection.save())
        files.prune([done.number])
        log.info("local reference: round %d of %d", done.number, rounds)
    return evaluate_splits(model, cohort, federation, tasks, device)
