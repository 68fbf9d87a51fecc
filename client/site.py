"""One site: its data, its heads, and the three things a server may ask of it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from client.link import Link
from client.policy import check_data, check_order
from client.privacy_filter import site_card, told_metrics, train_report
from client.site_model import MOMENTS, site_model
from mdmt.checkpoints import RoundFiles
from mdmt.config import FederationConfig, SiteConfig, parse_recipe
from mdmt.data.cohort import Cohort, open_cohort
from mdmt.errors import DataError, StateError
from mdmt.evaluation import evaluate, evaluate_constant
from mdmt.messages import (
    Arm,
    EvaluateOrder,
    EvaluateReport,
    Query,
    SiteCard,
    TrainOrder,
    TrainReport,
)
from mdmt.models import get_arrays, staying
from mdmt.registry import permit_plugins
from mdmt.seeds import derive_seed
from mdmt.training import resolve_device, train

__all__ = ["Site", "kept_tensors"]


def kept_tensors(
    site: SiteConfig, federation: FederationConfig, run: str, up_to: int
) -> dict[str, Tensor]:
    """What a site kept of the federated arm after round `up_to`, without optimiser moments.

    Raises
    ------
    StateError
        It kept nothing: it never trained, or its state lies elsewhere.
    """
    state = _state(site, federation, run, "federated")
    if state.latest(up_to) is None:
        raise StateError(f"{state.folder}: {site.name} kept nothing of round {up_to} or earlier")
    saved = _load(state, up_to)
    return {name: value for name, value in saved.items() if not name.startswith(MOMENTS)}


def _state(site: SiteConfig, federation: FederationConfig, run: str, arm: Arm) -> RoundFiles:
    identity = {
        "federation": federation.hash,
        "run": run,
        "arm": arm,
        "site": site.name,
        "backbone": federation.model.backbone,
    }
    return RoundFiles(site.state_root / federation.name / run / arm, identity)


def _load(state: RoundFiles, up_to: int) -> dict[str, Tensor]:
    """Tensors of the last round not after `up_to`; empty if the site has none yet."""
    saved = state.latest(up_to)
    return {} if saved is None else state.load(saved).tensors


def _link(federation: FederationConfig, state: RoundFiles, up_to: int) -> Link:
    """The wire, as it was left when the heads were saved that a round starts from."""
    files = RoundFiles(state.folder / "wire", state.identity)
    return Link(federation.wire, files, state.latest(up_to))


_COHORTS: dict[str, tuple[str, Cohort]] = {}
"""Cohorts opened in this process: site → (what it was opened for, cohort)."""


@dataclass(frozen=True)
class Site:
    """A site, ready to answer."""

    config: SiteConfig

    @property
    def tasks(self) -> tuple[str, ...]:
        """Names of the tasks this site offers."""
        return tuple(self.config.offered)

    @property
    def log_file(self) -> Path:
        """Where this site writes what went wrong; it is never sent."""
        return self.config.state_root / "site.log"

    def card(self, query: Query) -> SiteCard:
        """Tell who this is, what it can train, and how many labels it has."""
        federation = self._admit(query.recipe)
        cohort = self._cohort(federation, anew=True)  # files may have changed
        check_data(self.config.policy, federation, cohort, self.tasks)
        return site_card(self.config, federation, cohort)

    def train(
        self, order: TrainOrder, blob: bytes, proximal_mu: float
    ) -> tuple[TrainReport, bytes]:
        """Evaluate the backbone as received, train it with this site's heads, keep the heads.

        Arrays come and go as they travel (`mdmt.wire`).
        """
        federation = self._admit(order.recipe, order.round, order.coefficients)
        cohort, device = self._cohort(federation), self._device(federation)
        check_data(self.config.policy, federation, cohort, self.tasks)
        state = _state(self.config, federation, order.run, order.arm)
        link = _link(federation, state, order.round - 1)
        new_heads = state.latest(order.round - 1) is None
        own = site_model(federation.recipe, self.tasks, device)
        model = own.model
        moments = own.restore(_load(state, order.round - 1), link, blob)
        validation = evaluate(model, cohort, "val", federation, self.tasks, device)
        result = train(
            model,
            cohort,
            federation,
            coefficients=order.coefficients,
            seed=derive_seed(federation.seed, "train", self.config.name, order.round),
            device=device,
            round_number=order.round,
            lr_factor=order.lr_factor,
            proximal_mu=proximal_mu,
            start_moments=moments,
            # Moments of what is averaged make no sense after averaging.
            keep_moments=[n for n, _ in model.named_parameters() if n not in own.returned],
        )
        model.zero_grad()  # the model waits for the next round, its gradients need no memory
        update = link.send(get_arrays(model, own.returned, copy=False))
        link.save(order.round)
        kept_moments = {MOMENTS + name: value for name, value in result.moments.items()}
        state.save(order.round, staying(model, federation.aggregation) | kept_moments)
        # The server may go back by one round: the start of the last two is kept.
        state.prune((*order.keep, *range(order.round - 2, order.round + 1)))
        report = train_report(self.config, order, cohort, validation, result, new_heads=new_heads)
        return report, update

    def evaluate(self, order: EvaluateOrder, blob: bytes) -> EvaluateReport:
        """Evaluate a round's backbone with the heads this site had after that round."""
        federation = self._admit(order.recipe, order.round)
        cohort, device = self._cohort(federation), self._device(federation)
        state = _state(self.config, federation, order.run, order.arm)
        link = _link(federation, state, order.round)
        own = site_model(federation.recipe, self.tasks, device)
        own.restore(_load(state, order.round), link, blob)
        splits: tuple[Literal["val", "test"], ...] = ("val", "test")
        metrics = {
            split: evaluate(
                own.model, cohort, split, federation, self.tasks, device, intervals=split == "test"
            )
            for split in splits
        }
        constant = {
            split: evaluate_constant(cohort, split, federation, self.tasks)
            for split in splits
            if order.arm == "federated" and "constant" in federation.references
        }
        policy, manifest = self.config.policy, cohort.manifest
        return EvaluateReport(
            site=self.config.name,
            round=order.round,
            metrics={s: told_metrics(policy, manifest, m, s) for s, m in metrics.items()},
            # The constant is drawn from the training labels.
            constant={
                s: told_metrics(policy, manifest, m, s, "train") for s, m in constant.items()
            },
        )

    def _admit(
        self, recipe: str, round_number: int = 0, tasks: Iterable[str] = ()
    ) -> FederationConfig:
        """The federation of a recipe that the policy allows; data and torch are untouched yet."""
        policy = self.config.policy
        with permit_plugins(policy.plugins):
            federation = parse_recipe(recipe)
        check_order(policy, federation, round_number, tasks)
        return federation

    def _cohort(self, federation: FederationConfig, *, anew: bool = False) -> Cohort:
        """The site's cohort, as this process opened it before unless it is wanted `anew`."""
        for task in self.tasks:
            if task not in federation.tasks:
                raise DataError(f"task {task} is not one of the federation {federation.name}")
        key = self.config.model_dump_json() + federation.recipe
        known, cohort = _COHORTS.get(self.config.name, ("", None))
        if anew or cohort is None or known != key:
            offered = self.config.model_copy(update={"tasks": self.config.offered})
            cohort = open_cohort(offered, federation)
            _COHORTS[self.config.name] = key, cohort
        return cohort

    def _device(self, federation: FederationConfig) -> torch.device:
        torch.set_num_threads(self.config.threads or federation.training.threads)
        return resolve_device(self.config.device)
