"""Flower's strategies, averaging our way: the backbone over all sites, a head over its task's."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, Message, MessageType, MetricRecord, RecordDict
from flwr.serverapp import Grid, strategy
from numpy.typing import NDArray

from mdmt.config import FederationConfig
from mdmt.errors import RunError
from mdmt.messages import SiteCard, TrainReport
from mdmt.seeds import derive_seed
from mdmt.wire import UNKNOWN_BASE
from server.aggregation import weighted_mean
from server.downlink import Downlink
from server.messaging import Refused
from server.records import concerns, content_bytes, from_record, to_record
from server.update import decode_update, read_update
from server.update_buffer import Shelf
from server.weighting import array_weights, site_weights

__all__ = ["Round", "SiteAverage", "build_strategy"]


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
    downlink : Downlink
        What sites have, which outlives a round.
    folder : Path or None
        Where updates wait that memory has no room for.
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
    downlink: Downlink
    folder: Path | None = None
    round: Round
    absent: frozenset[int] = frozenset()

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Write one message per site drawn for this round."""
        self.round = Round()
        self._current = from_record(arrays) | self.plain
        self.downlink.advance(self._current)
        self._asked: dict[int, tuple[Message, SiteCard, str]] = {}
        for node, card in self._draw(server_round).items():
            if node in self.absent:
                self.round.refusals[card.name] = "not connected"
                continue
            order = {"order": self.write_order(card.name, server_round)} | dict(config)
            self._ask(node, card, ConfigRecord(order))
        return [message for message, _, _ in self._asked.values()]

    def again(self, node: int, reply: Message) -> Message | None:
        """The same order with everything in full, for a site that lost what a delta builds on."""
        message, card, _ = self._asked[node]
        lost = reply.has_error() and reply.error.code == UNKNOWN_BASE
        if not lost or self.downlink.confirmed.pop(card.name, None) is None:
            return None
        return self._ask(node, card, message.content.config_records["config"])

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Average the updates that pass every check, in order of site names.

        A reply is checked when it arrives, and waits on a shelf as bytes. How much a site counts
        depends on which others are accepted, so the sums begin when the last one is there; then one
        update at a time is decoded and added in place. Whatever the number of sites, memory is that
        of the sums, one update, and a shelf that is bounded; `arrivals` says what Flower adds.

        Raises
        ------
        RunError
            Fewer updates than `aggregation.min_sites` passed, or one did not and
            `aggregation.on_missing` is ``stop``.
        """
        shelf = Shelf(self.folder)
        for reply in replies:
            self._accept(server_round, reply, shelf)
            if reply.has_content():
                for record in reply.content.array_records.values():
                    record.clear()  # Flower's records refer to themselves: they would stay
        cards = [card for _, card, _ in self._asked.values() if card.name in self.round.reports]
        for _, card, _ in self._asked.values():
            if card.name not in self.round.reports:
                silence = f"no answer within {self.config.training.round_timeout:.0f} s"
                self.round.refusals.setdefault(card.name, silence)
        self.round.reports = {card.name: self.round.reports[card.name] for card in cards}
        self._check_quorum(server_round, len(cards))
        self.round.weights = site_weights(self.config, cards)
        weights = array_weights(self.config, cards, self.travelling)
        held, wire = self.downlink.held, self.config.wire
        mean = weighted_mean(
            (decode_update(shelf.take(card.name), held, wire.up) for card in cards),
            (weights[card.name] for card in cards),
            None if wire.down == "float32" else self._not_sent,
        )  # without a shared head whose sites were all absent: it stays as it is
        self.plain |= {name: value for name, value in mean.items() if name in self.plain}
        trained = {name: mean[name] for name in sorted(mean) if name not in self.plain}
        return to_record(trained), MetricRecord()

    def _ask(self, node: int, card: SiteCard, order: ConfigRecord) -> Message:
        """Write a message that carries the arrays a site needs, and count its bytes."""
        record, fingerprint = self.downlink.record(card)
        content = RecordDict({"arrays": record, "config": order})
        timeout = self.config.training.round_timeout
        message = Message(content, node, MessageType.TRAIN, ttl=timeout)
        self._asked[node] = message, card, fingerprint
        sent = self.round.bytes_down
        sent[card.name] = sent.get(card.name, 0) + content_bytes(content)
        return message

    def _not_sent(self, name: str) -> NDArray[np.float64]:
        """What sites do not have yet of an array: their updates do not hold it either."""
        return self._current[name].astype(np.float64) - self.downlink.held[name]

    def _draw(self, server_round: int) -> dict[int, SiteCard]:
        """The sites of a round: drawn from sorted names with a seed of the round's own."""
        nodes = sorted(self.cards, key=lambda node: self.cards[node].name)
        wanted = max(
            round(self.config.aggregation.fraction * len(nodes)), self.config.aggregation.min_sites
        )
        rng = np.random.default_rng(derive_seed(self.config.seed, "sites", server_round))
        drawn = rng.choice(len(nodes), size=min(wanted, len(nodes)), replace=False)
        return {nodes[i]: self.cards[nodes[i]] for i in sorted(drawn)}

    def _accept(self, server_round: int, reply: Message, shelf: Shelf) -> None:
        """Put the update of a reply on the shelf and note its report, or note why not."""
        asked = (
            (card, fingerprint)
            for message, card, fingerprint in self._asked.values()
            if message.metadata.message_id == reply.metadata.reply_to_message_id
        )
        for card, fingerprint in asked:
            sent = {
                name: array
                for name, array in self.downlink.held.items()
                if name in self.travelling and concerns(card, name)
            }
            try:
                report, blob = read_update(
                    card, server_round, reply, sent, fingerprint, self.config.wire.up
                )
            except Refused as refused:
                self.round.refusals[card.name] = str(refused)
                continue
            shelf.put(card.name, blob)
            self.round.reports[card.name] = report
            self.round.bytes_up[card.name] = content_bytes(reply.content)
            self.downlink.confirmed[card.name] = fingerprint

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
        The attributes of `SiteAverage` beside `config`; `downlink` is a new one unless given.
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
    for name, value in {"config": config, "downlink": Downlink(config.wire), **attributes}.items():
        setattr(built, name, value)
    return built
