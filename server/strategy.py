"""Flower's strategies, averaging our way: the backbone over all sites, a head over its task's."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from flwr.app import (
    ArrayRecord,
    ConfigRecord,
    Message,
    MessageType,
    MetricRecord,
    RecordDict,
)
from flwr.serverapp import Grid, strategy
from numpy.typing import NDArray
from pydantic import ValidationError

from mdmt.config import FederationConfig
from mdmt.errors import RunError
from mdmt.messages import SiteCard, TrainReport
from mdmt.models import head_task
from mdmt.seeds import derive_seed
from mdmt.wire import BLOB, unpack
from server.aggregation import Arrays, refusal, weighted_mean
from server.exchange import reason
from server.records import concerns, content_bytes, from_record, pack_record, to_record
from server.weighting import site_weights, task_shares

__all__ = [
    "Round",
    "SiteAverage",
    "build_strategy",
]

_SLACK = 4096
"""Bytes an array may take on the wire beyond its values."""


@dataclass
class Round:
    """What one round brought, for the history."""

    reports: dict[str, TrainReport] = field(default_factory=dict)
    weights: dict[str, float] = field(default_factory=dict)
    refusals: dict[str, str] = field(default_factory=dict)
    bytes_down: dict[str, int] = field(default_factory=dict)
    bytes_up: dict[str, int] = field(default_factory=dict)


class SiteAverage(strategy.FedAvg):
    """Weighted mean of what sites return; the last of our classes in every strategy's MRO.

    A server optimiser (FedAvgM, FedAdam, FedYogi) passes the trainable backbone arrays through
    `configure_train` and gets their mean from `aggregate_train`. All else (running statistics,
    shared heads, local norms' first values) waits in `plain`, where no optimiser reaches it.

    Attributes
    ----------
    config : FederationConfig
    cards : dict of int to SiteCard
        Node id → card of every site that may be asked.
    plain : dict of str to ndarray
    travelling : frozenset of str
        Names that sites send back.
    write_order : callable
        (site, round) → JSON of the site's order.
    round : Round
        The latest one.
    absent : frozenset of int
        Nodes that are not connected: not asked if they are drawn.
    """

    config: FederationConfig
    cards: dict[int, SiteCard]
    plain: dict[str, NDArray[np.floating]]
    travelling: frozenset[str]
    write_order: Callable[[str, int], str]
    round: Round
    absent: frozenset[int] = frozenset()

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Write one message per site drawn for this round."""
        self.round = Round()
        self._sent = from_record(arrays) | self.plain
        blobs: dict[frozenset[str], ArrayRecord] = {}
        self._asked: list[tuple[Message, SiteCard]] = []
        for node, card in self._draw(server_round).items():
            if node in self.absent:
                self.round.refusals[card.name] = "not connected"
                continue
            names = frozenset(name for name in self._sent if concerns(card, name))
            if names not in blobs:  # sites that are sent the same share it
                blobs[names] = pack_record({name: self._sent[name] for name in sorted(names)})
            record = blobs[names]
            order = {"order": self.write_order(card.name, server_round)} | dict(config)
            content = RecordDict({"arrays": record, "config": ConfigRecord(order)})
            timeout = self.config.training.round_timeout
            self._asked.append((Message(content, node, MessageType.TRAIN, ttl=timeout), card))
            self.round.bytes_down[card.name] = content_bytes(content)
        return [message for message, _ in self._asked]

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Average the updates that pass every check, in order of site names.

        Raises
        ------
        RunError
            Fewer updates than `aggregation.min_sites` passed, or one did not and
            `aggregation.on_missing` is ``stop``.
        """
        by_request = {reply.metadata.reply_to_message_id: reply for reply in replies}
        updates: dict[str, Arrays] = {}
        cards: dict[str, SiteCard] = {}
        for message, card in self._asked:
            try:
                reply = by_request.get(message.metadata.message_id)
                updates[card.name] = self._accept(card, server_round, reply)
                cards[card.name] = card
            except _Refused as refused:
                self.round.refusals[card.name] = str(refused)
        self._check_quorum(server_round, len(updates))
        weights = site_weights(self.config, cards.values())
        uniform = self.config.aggregation.weighting == "uniform"
        # A site need not tell its counts where they do not count.
        shares = {} if uniform else task_shares(self.config, cards.values())
        self.round.weights = weights
        mean: dict[str, NDArray[np.floating]] = {}
        for name in sorted(self.travelling):
            task = head_task(name)
            having = [site for site in updates if name in updates[site]]
            if not having:
                continue  # a shared head whose sites were all absent stays as it is
            raw = [
                weights[site] if task is None or uniform else shares[site].get(task, 0.0)
                for site in having
            ]
            mean |= weighted_mean(
                [{name: updates[site][name]} for site in having], [w / sum(raw) for w in raw]
            )
        self.plain |= {name: value for name, value in mean.items() if name in self.plain}
        return to_record({k: v for k, v in mean.items() if k not in self.plain}), MetricRecord()

    def _draw(self, server_round: int) -> dict[int, SiteCard]:
        """The sites of a round: drawn from sorted names with a seed of the round's own."""
        nodes = sorted(self.cards, key=lambda node: self.cards[node].name)
        wanted = max(
            round(self.config.aggregation.fraction * len(nodes)), self.config.aggregation.min_sites
        )
        rng = np.random.default_rng(derive_seed(self.config.seed, "sites", server_round))
        drawn = rng.choice(len(nodes), size=min(wanted, len(nodes)), replace=False)
        return {nodes[i]: self.cards[nodes[i]] for i in sorted(drawn)}

    def _accept(self, card: SiteCard, server_round: int, reply: Message | None) -> Arrays:
        """The arrays of a reply that passes every check; note its report."""
        if reply is None:
            raise _Refused(f"no answer within {self.config.training.round_timeout:.0f} s")
        if reply.has_error():
            raise _Refused(reason(reply))
        try:
            record = reply.content.array_records["arrays"]
            report = TrainReport.model_validate_json(
                str(reply.content.config_records["report"]["json"])
            )
        except (KeyError, ValidationError) as error:
            raise _Refused("the reply is not a training report with arrays") from error
        if (report.site, report.round) != (card.name, server_round):
            raise _Refused(f"the report is of site {report.site[:64]}, round {report.round}")
        expected = {
            k: v for k, v in self._sent.items() if k in self.travelling and concerns(card, k)
        }
        # Size first: what is too large is never decoded.
        allowed = sum(array.nbytes + _SLACK for array in expected.values()) + _SLACK
        if (size := sum(len(array.data) for array in record.values())) > allowed:
            raise _Refused(f"the update has {size} bytes, at most {allowed} are expected")
        try:
            received = unpack(record[BLOB].data)
        except (ValueError, KeyError) as error:
            raise _Refused("the arrays cannot be decoded") from error
        if unfit := refusal(received, expected):
            raise _Refused(unfit)
        self.round.reports[card.name] = report
        self.round.bytes_up[card.name] = content_bytes(reply.content)
        return received

    def _check_quorum(self, server_round: int, accepted: int) -> None:
        reasons = "; ".join(f"{site}: {why}" for site, why in self.round.refusals.items())
        needed = self.config.aggregation.min_sites
        if accepted < needed:
            raise RunError(
                f"round {server_round}: {accepted} updates could be used,"
                f" {needed} are needed ({reasons})"
            )
        if reasons and self.config.aggregation.on_missing == "stop":
            raise RunError(
                f"round {server_round} stopped, as aggregation.on_missing says ({reasons})"
            )


class _Refused(Exception):
    """Why a site's reply cannot be used."""


class FedAvg(SiteAverage):
    """The weighted mean alone."""


class FedProx(strategy.FedProx, SiteAverage):
    """Sends μ; the sites add the proximal gradient."""


class FedAvgM(strategy.FedAvgM, SiteAverage):
    """Server momentum."""


class FedAdam(strategy.FedAdam, SiteAverage):
    """Adam at the server."""


class FedYogi(strategy.FedYogi, SiteAverage):
    """Yogi at the server."""


def build_strategy(config: FederationConfig, **attributes: Any) -> SiteAverage:
    """Make the strategy a federation asks for.

    Parameters
    ----------
    config : FederationConfig
    **attributes
        The attributes of `SiteAverage` beside `config`.
    """
    options = config.aggregation.strategy
    built: SiteAverage
    if options.name == "fedprox":
        built = FedProx(proximal_mu=options.mu)
    elif options.name == "fedavgm":
        built = FedAvgM(server_learning_rate=options.lr, server_momentum=options.momentum)
    elif options.name in ("fedadam", "fedyogi"):
        kind = FedAdam if options.name == "fedadam" else FedYogi
        built = kind(eta=options.lr, beta_1=options.beta_1, beta_2=options.beta_2, tau=options.tau)
    else:
        built = FedAvg()
    for name, value in {"config": config, **attributes}.items():
        setattr(built, name, value)
    return built
