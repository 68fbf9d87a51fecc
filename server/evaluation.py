"""Evaluation at the sites: the final model, the best model of each task, and the references."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection
from typing import Any, TypeVar

from flwr.app import MessageType
from flwr.serverapp import Grid
from pydantic import BaseModel

from mdmt.audit_head import head_of
from mdmt.blob import Arrays
from mdmt.config import WireConfig
from mdmt.errors import Refused, RunError
from mdmt.messages import (
    EvaluateOrder,
    EvaluateReport,
    ReferenceOrder,
    ReferenceReport,
    SiteCard,
)
from mdmt.wire import Codec
from server.collection import own_arrays
from server.federation import Federation, initial_arrays
from server.messaging import deadline, is_unavailable, read_report, replies, request
from server.run import RunDirectory

R = TypeVar("R", EvaluateReport, ReferenceReport)
_PAUSE = 1.0
"""Seconds to wait before an order is repeated."""
_EXACT = Codec(WireConfig())
"""The exact codec: the tested model is the released model, for every codec of the federation."""


def evaluate_round(
    grid: Grid, federation: Federation, run: RunDirectory, number: int, arrays: Arrays
) -> dict[str, EvaluateReport]:
    """Let every site evaluate the model of round `number` with its own memory of this round.

    Raises
    ------
    RunError
        No site could evaluate it.
    """
    run.event("evaluate", round=number)
    registry, needed = federation.registry, federation.config.aggregation.min_sites
    registry.wait(lambda connected: len(connected & set(registry.cards)) >= needed)
    order = EvaluateOrder(run=federation.run_id, round=number, recipe=federation.recipe)
    timeout = deadline(federation.config, len(registry.cards))
    kind = (MessageType.EVALUATE, EvaluateReport)
    reports, _ = _ask(
        grid, federation, run, kind, lambda card: (number, order), arrays, registry.cards, timeout
    )
    if not reports:
        raise RunError(f"no site could evaluate the model of round {number}")
    return reports


def final_test(grid: Grid, federation: Federation, run: RunDirectory) -> dict[str, Any]:
    """Test the last model and the best of each task: ``checkpoints`` in ``metrics.json``."""
    last = federation.config.training.rounds
    reports = {last: federation.last_reports}
    checkpoints = {"last": last}
    for task, best in federation.selection.best.items():
        checkpoints[f"best:{task}"] = best.round
        if best.round not in reports:
            arrays = federation.arrays_after(best.round, run)
            reports[best.round] = evaluate_round(grid, federation, run, best.round, arrays)
    return {
        name: {
            "round": number,
            "sites": {site: report.metrics for site, report in reports[number].items()},
        }
        for name, number in checkpoints.items()
    }


def references(grid: Grid, federation: Federation, run: RunDirectory) -> dict[str, Any]:
    """Let the sites compute the references: ``references`` in ``metrics.json``.

    One order starts all references inside a site, from the initial arrays. If the connection of a
    site broke, the order is sent again when the site is back, and the site continues after its last
    finished round. A site that does not answer is missing in the result.
    """
    config, registry = federation.config, federation.registry
    if not config.references:
        return {}
    run.event("references", sites=sorted(registry.sites), rounds=config.training.rounds)
    registry.poll()

    def order(card: SiteCard) -> tuple[int, ReferenceOrder]:
        rounds = federation.rounds_of.get(card.name, 0)
        recipe = federation.recipe
        return rounds, ReferenceOrder(run=federation.run_id, round=rounds, recipe=recipe)

    kind, arrays = ("evaluate.reference", ReferenceReport), initial_arrays(config)
    timeout = deadline(config, len(registry.cards), config.training.rounds)
    end, nodes = time.monotonic() + timeout, set(registry.cards)
    reports: dict[str, ReferenceReport] = {}
    while nodes:
        found, broken = _ask(
            grid, federation, run, kind, order, arrays, nodes, end - time.monotonic()
        )
        reports |= found
        if broken:
            time.sleep(_PAUSE)  # Flower can list a lost node for a minute
            back = min(end, time.monotonic() + config.aggregation.join_timeout)
            registry.wait(broken.issubset, back)
        nodes = broken & registry.connected
    return {
        name: {
            "sites": {s: r.metrics[name] for s, r in sorted(reports.items()) if name in r.metrics}
        }
        for name in config.references
    }


def _ask(
    grid: Grid,
    federation: Federation,
    run: RunDirectory,
    kind: tuple[str, type[R]],
    order: Callable[[SiteCard], tuple[int, BaseModel]],
    arrays: Arrays,
    nodes: Collection[int],
    timeout: float,
) -> tuple[dict[str, R], set[int]]:
    """Send an order with arrays to the connected nodes of `nodes`, and read their reports.

    Parameters
    ----------
    grid, federation, run
    kind : (str, type)
        Type of the message, and of the report.
    order : callable
        Returns the round that the report must have, and the order.
    arrays : mapping of str to ndarray
    nodes : collection of int
    timeout : float
        Seconds.

    Returns
    -------
    dict of str to report
        Reports by site, sorted.
    set of int
        Nodes whose connection broke before their answer.
    """
    cards = {node: card for node, card in federation.registry.cards.items() if node in nodes}
    blobs: dict[frozenset[str], bytes] = {}
    messages, refusals = [], {}
    for node, card in cards.items():
        if node in federation.registry.absent:
            refusals[card.name] = "not connected"
            continue
        refusals[card.name] = f"no answer within {timeout:.0f} s"
        own = own_arrays(arrays, card)
        if (names := frozenset(own)) not in blobs:
            blobs[names] = _EXACT.broadcast(own)
        messages.append(request(kind[0], node, order(card)[1], blobs[names], timeout))
    reports: dict[str, R] = {}
    broken = set()
    for node, reply in replies(grid, messages, timeout):
        card = cards[node]
        run.event("answered", site=card.name, head=head_of(reply))
        if is_unavailable(reply):
            broken.add(node)
        try:
            reports[card.name] = read_report(kind[1], reply, card, order(card)[0])
            del refusals[card.name]
        except Refused as refused:
            refusals[card.name] = str(refused)
    for site, why in sorted(refusals.items()):
        run.event("refused", site=site, reason=why)
    return dict(sorted(reports.items())), broken
