"""Compute the references inside the site. Only metrics are sent."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import torch

from mdmt.central import central_rounds
from mdmt.checkpoints import RoundFiles
from mdmt.config import FederationConfig
from mdmt.data.cohort import Cohort
from mdmt.evaluation import Evaluated, evaluate_constant, evaluate_model
from mdmt.messages import Reference
from mdmt.models import MDMTModel
from mdmt.refit import evaluate_refitted, linear_probe, refit_heads

log = logging.getLogger(__name__)


def evaluate_references(
    model: MDMTModel,
    files: RoundFiles,
    cohort: Cohort,
    federation: FederationConfig,
    site: str,
    rounds: int,
    device: torch.device,
) -> Iterator[tuple[Reference, Evaluated]]:
    """Yield the references of a federation, the cheapest first. `_local` explains the parameters.

    ``constant`` is the best constant prediction of the training labels. ``probe`` has linear heads
    on the initial backbone, which is not trained.
    """
    tasks = [task for task in federation.tasks if task in cohort.manifest.targets]
    if "constant" in federation.references:
        yield "constant", evaluate_constant(cohort, federation, tasks)
    if "probe" in federation.references:
        probe = linear_probe(model, federation, tasks)
        refitted = refit_heads(probe, cohort, federation, tasks, device, choose=False)
        yield "probe", evaluate_refitted(refitted, cohort, federation, tasks, device)
    if "local" in federation.references:
        yield "local", _local(model, files, cohort, federation, site, rounds, device)


def _local(
    model: MDMTModel,
    files: RoundFiles,
    cohort: Cohort,
    federation: FederationConfig,
    site: str,
    rounds: int,
    device: torch.device,
) -> Evaluated:
    """Train a model on the site's own data, and evaluate it on validation and test.

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
    return evaluate_model(model, cohort, federation, tasks, device)
