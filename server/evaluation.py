"""Evaluation at the sites: the final model, the best model of each task, and the references."""

from __future__ import annotations

from collections.abc import Callable, Collection
from math import inf
from typing import TypeVar

from flwr.app import MessageType
from flwr.serverapp import Grid
from pydantic import BaseModel

from mdmt.algorithms import State
from mdmt.audit_head import head_of
from mdmt.config import WireConfig
from mdmt.errors import Refused
from mdmt.messages import (
    EvaluateOrder,
    EvaluateReport,
    ReferenceOrder,
    ReferenceReport,
    SiteCard,
)
from mdmt.wire import Codec
from server.broadcast import Broadcast
from server.federation import Federation, initial_arrays
from server.messaging import Replies, read_report
from server.requests import deadline, request
from server.run import RunDirectory

R = TypeVar("R", EvaluateReport, ReferenceReport)
_EXACT = Codec(WireConfig())
"""The exact codec: the tested model is the released model, for every codec of the federation."""


def evaluate_round(
    grid: Grid, federation: Federation, run: RunDirectory, number: int, state: State
) -> dict[str, EvaluateReport]:
    """Let every site evaluate the model of round `number` with its own memory of this round.

    A site that is not connected is waited for until the deadline. A site that evaluated this model
    in an earlier attempt of the run is not asked again.
    """
    run.event("evaluate", round=number)
    known, cards = federation.results.reports.get(number, {}), federation.registry.cards
    nodes = [node for node, card in cards.items() if card.name not in known]
    order = EvaluateOrder(
        run=federation.run_id,
        round=number,
        recipe=federation.recipe,
        frozen=federation.frozen.digest,
    )
    timeout = deadline(federation.config, len(nodes))
    kind = (MessageType.EVALUATE, EvaluateReport)
    found = _ask(grid, federation, run, kind, lambda card: (number, order), state, nodes, timeout)
    reports = dict(sorted((known | found).items()))
    federation.results.reports[number] = reports
    return reports


def final_test(grid: Grid, federation: Federation, run: RunDirectory) -> dict[str, int]:
    """Let the sites test the last model and the best of each task. Return their rounds by name."""
    last = federation.config.training.rounds
    checkpoints = {"last": last}
    checkpoints |= {f"best:{task}": best.round for task, best in federation.selection.best.items()}
    for number in dict.fromkeys(checkpoints.values()):
        if number != last:
            state = federation.state_after(number, run)
            evaluate_round(grid, federation, run, number, state)
    return checkpoints


def references(
    grid: Grid, federation: Federation, run: RunDirectory, tested: Collection[int]
) -> None:
    """Let the sites compute the references, and compare the models of `tested` rounds with them.

    One order starts all references inside a site, from the initial arrays. A repeated order
    continues after the last finished round of the site. As this can last as long as all rounds, a
    site that is not connected is waited for `aggregation.join_timeout` only. A site that did not
    test one of these models is not asked before it has: it compares all of them in one reply.
    """
    config, results = federation.config, federation.results
    if not config.references:
        return
    nodes = [
        node
        for node, card in federation.registry.cards.items()
        if any(card.name not in results.references.get(name, {}) for name in config.references)
        and all(card.name in results.reports[number] for number in tested)
    ]
    names = sorted(federation.registry.cards[node].name for node in nodes)
    run.event("references", sites=names, rounds=config.training.rounds)

    def order(card: SiteCard) -> tuple[int, ReferenceOrder]:
        rounds = federation.rounds_of.get(card.name, 0)
        return rounds, ReferenceOrder(
            run=federation.run_id,
            round=rounds,
            recipe=federation.recipe,
            frozen=federation.frozen.digest,
        )

    kind, state = ("evaluate.reference", ReferenceReport), State(initial_arrays(config))
    timeout = deadline(config, len(nodes), config.training.rounds)
    patience = config.aggregation.join_timeout
    found = _ask(grid, federation, run, kind, order, state, nodes, timeout, patience)
    for site, report in found.items():
        for name, metrics in report.metrics.items():
            results.references.setdefault(name, {})[site] = metrics
            results.differences.setdefault(name, {})[site] = report.differences.get(name, {})


def _ask(
    grid: Grid,
    federation: Federation,
    run: RunDirectory,
    kind: tuple[str, type[R]],
    order: Callable[[SiteCard], tuple[int, BaseModel]],
    state: State,
    nodes: Collection[int],
    timeout: float,
    patience: float = inf,
) -> dict[str, R]:
    """Send an order with arrays to nodes, and read their reports.

    Parameters
    ----------
    grid, federation, run
    kind : (str, type)
        Type of the message, and of the report.
    order : callable
        Returns the round that the report must have, and the order.
    state : State
        The algorithm chooses the arrays of a site from it.
    nodes : collection of int
    timeout : float
        Seconds.
    patience : float
        Seconds to wait for a site that is not connected.

    Returns
    -------
    dict of str to report
        Reports by site, sorted.
    """
    registry, refusals = federation.registry, federation.results.reasons
    registry.poll()
    cards = {node: registry.cards[node] for node in nodes}
    broadcast = Broadcast(_EXACT, federation.config.algorithm, state)
    messages = []
    for node, card in cards.items():
        if node in registry.left:
            continue
        blob, _ = broadcast.to(card)
        messages.append(request(kind[0], node, order(card)[1], blob, timeout))
    reports: dict[str, R] = {}
    refused: dict[str, str] = {}
    arriving = Replies(grid, messages, timeout, patience, federation.frozen)
    arriving.notice = lambda node, text: run.event("notice", message=f"{cards[node].name} {text}")
    for node, reply in arriving:
        card = cards[node]
        run.event("answered", site=card.name, head=head_of(reply))
        try:
            reports[card.name] = read_report(kind[1], reply, card, order(card)[0])
        except Refused as why:
            refused[card.name] = str(why)
    registry.left |= arriving.absent
    for node, card in cards.items():
        away = "not connected" if node in registry.left else f"no answer within {timeout:.0f} s"
        if card.name not in reports:
            refusals[card.name] = refused.get(card.name, away)
            run.event("refused", site=card.name, reason=refusals[card.name])
    return dict(sorted(reports.items()))
