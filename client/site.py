"""One site: its data, its memory, and the orders that it runs for a server."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from client.admission import admit, check_tasks
from client.budget import Purpose, open_budget
from client.comparisons import compare_with_reference, keep_predictions
from client.frozen_arrays import frozen_arrays, frozen_digest
from client.initial_arrays import check_initial
from client.memory import SiteMemory, round_files
from client.patients import check_patients
from client.policy import check_data
from client.privacy_filter import reported_metrics, reported_splits, site_card, train_report
from client.private_reports import private_card, private_splits, private_train_report
from client.references import evaluate_references
from client.secure_site import key_statement, open_round, secure_store
from client.site_model import receive, site_model
from mdmt.config import FederationConfig, SiteConfig, WireConfig
from mdmt.data.cohort import Cohort, open_cohort
from mdmt.errors import DataError, PolicyError
from mdmt.evaluation import evaluate, evaluate_model
from mdmt.messages import (
    EvaluateOrder,
    EvaluateReport,
    KeyOrder,
    KeyStatement,
    Metrics,
    Query,
    ReferenceOrder,
    ReferenceReport,
    SiteCard,
    TrainOrder,
    TrainReport,
    order_hash,
)
from mdmt.models import local_tensors
from mdmt.privacy.account import open_account
from mdmt.privacy.dp_training import train_privately
from mdmt.refit import evaluate_refitted, refit_heads
from mdmt.seeds import derive_seed
from mdmt.site_round import SiteRound
from mdmt.strict import Strict
from mdmt.training import TrainingResult, resolve_device, train
from mdmt.wire import Codec

_COHORTS: dict[str, tuple[str, Cohort]] = {}
"""Open cohorts of this process: site → (configuration and recipe, cohort)."""


@dataclass(frozen=True)
class Site:
    """A site that runs orders."""

    config: SiteConfig
    kit: Path | None = None
    """Folder of the site's file. None in a simulation."""
    asked: str = ""
    """Hash of the order that is answered, if it was computed already (`order_hash`)."""
    frozen: bytes = b""
    """The frozen arrays that came with the order, encoded; empty without."""

    @property
    def tasks(self) -> tuple[str, ...]:
        """Names of the tasks that the site offers."""
        return tuple(self.config.offered)

    @property
    def log_file(self) -> Path:
        """The log of the site. It is never sent."""
        return self.config.state_root / "site.log"

    @property
    def weights(self) -> Path:
        """Folder with the weights that a recipe names by their SHA-256."""
        return (self.kit or self.config.state_root) / "weights"

    def card(self, query: Query) -> SiteCard:
        """Return the site card: tasks and counts of labels."""
        federation = admit(self.config, query)
        cohort = self._cohort(federation, anew=True)  # the files may have changed
        check_data(self.config.policy, federation, cohort, self.tasks)
        first = self._seed(federation, 1)
        check_patients(
            self.config.policy, federation, cohort, dict.fromkeys(self.tasks, 1.0), first
        )
        card = self._card(federation, cohort)
        self._pay(federation, "card", lambda: order_hash("card", card.model_dump_json()))
        return card

    def key(self, order: KeyOrder) -> KeyStatement:
        """Return the key of this site in a run with secure aggregation, and its counts, signed."""
        federation = admit(self.config, order)
        if not federation.privacy.secure_aggregation:
            raise PolicyError("the recipe does not use secure aggregation: it needs no key")
        card = self._card(federation, self._cohort(federation))
        self._pay(federation, "card", lambda: order_hash("card", card.model_dump_json()))
        counts = {task: card.labels(task) for task in self.tasks}
        signing_key = self.kit / "site.key" if self.kit else None
        return key_statement(self.config, federation, order.run, counts, signing_key)

    def train(self, order: TrainOrder, blob: bytes) -> tuple[TrainReport, bytes]:
        """Evaluate the received model, train it with the site's heads, and keep the heads."""
        started = time.monotonic()
        federation, cohort, device = self._open(order)
        check_data(self.config.policy, federation, cohort, self.tasks)
        check_tasks(order, cohort, self.tasks)
        secure = open_round(self.config, federation, order, blob)
        if secure is not None and (answer := secure.stored()) is not None:
            return answer
        seed = self._seed(federation, order.round)
        few = check_patients(self.config.policy, federation, cohort, order.coefficients, seed)
        memory = SiteMemory(round_files(self.config, federation, order.run), order.round - 1)
        site = self._round(federation, memory, blob, cohort, order)
        self._pay(federation, "order", lambda: self._order_hash("train", order, blob))
        federation.algorithm.load(site)
        private = federation.privacy.dp is not None
        validation: Metrics = {}
        if not private:
            validation = evaluate(site.model, cohort, "val", federation, self.tasks, device)
        update = federation.algorithm.train(site)
        message, lost = b"", dict[str, NDArray[np.float32]]()
        if secure is None:
            message, lost = Codec(federation.wire).upload(update.arrays, site.incoming, memory.lost)
        memory.save(order.round, update.memory, lost, order.keep)
        report = train_report(
            self.config,
            order,
            cohort,
            validation,
            update.result,
            few,
            seconds=time.monotonic() - started,
            new_memory=memory.empty,
        )
        if private:
            report = private_train_report(report, update.result)
        if secure is not None:
            whole = site_model(federation.recipe, tuple(federation.tasks), device)
            return secure.seal(report, update.arrays, blob, whole.uploaded, started)
        return report, message

    def evaluate(self, order: EvaluateOrder, blob: bytes) -> EvaluateReport:
        """Evaluate the backbone of a round with the site's memory after this round."""
        federation, cohort, device = self._open(order)
        memory = SiteMemory(round_files(self.config, federation, order.run), order.round)
        site = self._round(federation, memory, blob, cohort, order)
        self._pay(federation, "order", lambda: self._order_hash("evaluate", order, blob))
        federation.algorithm.load(site)
        if federation.training.refit_heads:
            refitted = refit_heads(site.model, cohort, federation, self.tasks, device)
            found = evaluate_refitted(refitted, cohort, federation, self.tasks, device)
            files = round_files(self.config, federation, order.run, "refitted")
            whole = federation.algorithm.backbone == "own"
            own = local_tensors(refitted.final, federation.aggregation, whole=whole)
            files.save(order.round, own)
        else:
            found = evaluate_model(site.model, cohort, federation, self.tasks, device)
        if federation.references or self.kit is None:  # the report of a simulation plots them
            tests = round_files(self.config, federation, order.run, "tests")
            keep_predictions(tests, order.round, found, cohort)
        metrics = reported_splits(self.config.policy, cohort.manifest, found.metrics)
        if federation.privacy.dp is not None:
            metrics = private_splits(metrics)
        if order.round == federation.training.rounds:  # all sites have answered the last round
            secure_store(self.config, federation, order.run).end()
        return EvaluateReport(site=self.config.name, round=order.round, metrics=metrics)

    def reference(self, order: ReferenceOrder, blob: bytes) -> ReferenceReport:
        """Compute the references from the initial arrays. A repeated order is continued."""
        federation, cohort, device = self._open(order)
        policy, manifest = self.config.policy, cohort.manifest
        check_data(policy, federation, cohort, self.tasks)
        check_patients(
            policy, federation, cohort, dict.fromkeys(self.tasks, 1.0), self._seed(federation, 1)
        )
        files = round_files(self.config, federation, order.run, "local")
        site = self._round(federation, SiteMemory(files, -1), blob, cohort, order)
        self._pay(federation, "order", lambda: self._order_hash("evaluate.reference", order, blob))
        report = ReferenceReport(site=self.config.name, round=order.round, metrics={})
        tests = round_files(self.config, federation, order.run, "tests")
        site.load()
        for name, found in evaluate_references(
            site.model, files, cohort, federation, self.config.name, order.round, device
        ):
            # All references depend on the training labels too.
            report.metrics[name] = reported_splits(policy, manifest, found.metrics, "train")
            differences = compare_with_reference(tests, found, cohort, federation)
            report.differences[name] = {
                number: reported_metrics(policy, manifest, metrics, "test", "train")
                for number, metrics in differences.items()
            }
        return report

    def _card(self, federation: FederationConfig, cohort: Cohort) -> SiteCard:
        card = site_card(self.config, federation, cohort)
        frozen = frozen_digest(federation, self.weights)
        card = card.model_copy(update={"frozen": frozen})
        return card if federation.privacy.dp is None else private_card(card)

    def _round(
        self,
        federation: FederationConfig,
        memory: SiteMemory,
        blob: bytes,
        cohort: Cohort,
        order: TrainOrder | EvaluateOrder | ReferenceOrder,
    ) -> SiteRound:
        """Check the arrays of an order, and build the `SiteRound` of the algorithm."""
        device, trains = self._device(federation), isinstance(order, TrainOrder)
        own = site_model(federation.recipe, self.tasks, device)
        # Only training orders are rounded: the tested model is the released model.
        codec = Codec(federation.wire if trains else WireConfig())
        sent = own
        if trains and federation.privacy.secure_aggregation:  # all sites get the same arrays
            sent = site_model(federation.recipe, tuple(federation.tasks), device)
        received = receive(codec, blob, sent)
        incoming = {name: array for name, array in received.items() if name in own.broadcast}
        first = order.round == (1 if trains else 0) or isinstance(order, ReferenceOrder)
        if first and self.config.policy.recipes is not None:
            check_initial(federation, self.tasks, incoming, codec, self.weights)
        frozen = frozen_arrays(
            self.config, federation, order, own.frozen, self.frozen, self.weights
        )
        loop: Callable[..., TrainingResult] = train
        if isinstance(order, TrainOrder):
            if federation.privacy.dp is None:
                loop = partial(train, seed=self._seed(federation, order.round))
            else:
                account = open_account(self.config, federation, order, blob)
                loop = partial(train_privately, account=account)
            loop = partial(
                loop,
                cohort=cohort,
                config=federation,
                coefficients=order.coefficients,
                device=device,
                round_number=order.round,
                lr_factor=order.lr_factor,
            )
        return SiteRound(
            model=own.model,
            aggregation=federation.aggregation,
            incoming={**frozen, **incoming},
            memory=memory.tensors,
            initial=own.initial,
            uploaded=own.uploaded,
            loop=loop,
        )

    def _open(
        self, order: TrainOrder | EvaluateOrder | ReferenceOrder
    ) -> tuple[FederationConfig, Cohort, torch.device]:
        """Check an order against the policy, then open the data and the device."""
        federation = admit(self.config, order)
        return federation, self._cohort(federation), self._device(federation)

    def _seed(self, federation: FederationConfig, round_number: int) -> int:
        """Return the seed of a round of training."""
        return derive_seed(federation.seed, "train", self.config.name, round_number)

    def _order_hash(self, kind: str, order: Strict, blob: bytes) -> str:
        """Return what identifies an order of a type of message, in every engine."""
        return self.asked or order_hash(kind, order.model_dump_json(), blob)

    def _pay(
        self, federation: FederationConfig, purpose: Purpose, identity: Callable[[], str]
    ) -> None:
        """Pay a message from the budget, before its order runs. A simulation computes no hash."""
        limit = self.config.policy.max_messages
        if limit is not None:
            open_budget(self.config).pay(federation.hash, limit, purpose, identity())

    def _cohort(self, federation: FederationConfig, *, anew: bool = False) -> Cohort:
        """Return the cohort of the site. Use the open one of this process unless `anew` is set."""
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
