"""Compute the references inside the site. Only metrics are sent."""

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
from mdmt.refit import evaluate_refitted, linear_probe, refit_heads

log = logging.getLogger(__name__)


def constant_metrics(
    cohort: Cohort, federation: FederationConfig, tasks: Sequence[str]
) -> dict[Held, Metrics]:
    """Return validation and test metrics of the best constant of the training labels."""
    splits: tuple[Held, ...] = ("val", "test")
    return {s: evaluate_constant(cohort, s, federation, tasks) for s in splits}


def probe_metrics(
    model: MDMTModel,
    cohort: Cohort,
    federation: FederationConfig,
    tasks: Sequence[str],
    device: torch.device,
) -> dict[Held, Metrics]:
    """Fit linear heads on the initial backbone, which is not trained. Return their metrics."""
    probe = linear_probe(model, federation, tasks)
    refitted = refit_heads(probe, cohort, federation, tasks, device, choose=False)
    return evaluate_refitted(refitted, cohort, federation, tasks, device)


def local_metrics(
    model: MDMTModel,
    files: RoundFiles,
    cohort: Cohort,
    federation: FederationConfig,
    site: str,
    rounds: int,
    device: torch.device,
) -> dict[Held, Metrics]:
    """Train a model on the site's own data. Return its validation and test metrics.

    Each finished round is saved, so that a repeated call continues after the last one.

    Parameters
    ----------
    model : MDMTModel
        With the initial values of the federation, on `device`.
    files : RoundFiles
    cohort : Cohort
    federation : FederationConfig
    site : str
    rounds : int
        Number of rounds. The schedule of the learning rate covers all of them.
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
    if federation.training.refit_heads:
        refitted = refit_heads(model, cohort, federation, tasks, device)
        return evaluate_refitted(refitted, cohort, federation, tasks, device)
    return evaluate_splits(model, cohort, federation, tasks, device)
