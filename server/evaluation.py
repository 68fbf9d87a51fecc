"""Evaluation at the sites: the final model, each task's best one, and the references."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from flwr.app import MessageType
from flwr.serverapp import Grid
from pydantic import BaseModel

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
from server.messaging import deadline, read_report, replies, request
from server.run import RunDirectory

__all__ = ["evaluate_round", "final_test", "references"]

R = TypeVar("R", EvaluateReport, ReferenceReport)
_EXACT = Codec(WireConfig())
"""What is tested is what is released: nothing is rounded, whatever the federation's codec."""


def evaluate_round(
    grid: Grid, federation: Federation, run: RunDirectory, number: int, arrays: Arrays
) -> dict[str, EvaluateReport]:
    """Let every site evaluate the model of round `number` with its own memory of that round.

    Raises
    ------
    RunError
        No site could.
    """
    run.event("evaluate", round=number)
    registry, needed = federation.registry, federation.config.aggregation.min_sites
    registry.wait(lambda connected: len(connected & set(registry.cards)) >= needed)
    order = EvaluateOrder(run=federation.run_id, round=number, recipe=federation.recipe)
    reports = _ask(
        grid,
        federation,
        run,
        (MessageType.EVALUATE, EvaluateReport),
        lambda card: (number, order),
        arrays,
        deadline(federation.config, len(registry.cards)),
    )
    if not reports:
        raise RunError(f"no site could evaluate the model of round {number}")
    return reports


def final_test(grid: Grid, federation: Federation, run: RunDirectory) -> dict[str, Any]:
    """Test the last model and each task's best one; the ``checkpoints`` of ``metrics.json``."""
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
    """What the federation is compared with; the ``references`` of ``metrics.json``.

    One order starts all of them inside the site, from the initial arrays. A site that does not
    answer is missing in the result; the federation's own result stays.
    """
    config = federation.config
    if not config.references:
        return {}
    run.event("references", sites=sorted(federation.registry.sites), rounds=config.training.rounds)
    federation.registry.poll()

    def order(card: SiteCard) -> tuple[int, ReferenceOrder]:
        rounds = federation.rounds_of.get(card.name, 0)
        recipe = federation.recipe
        return rounds, ReferenceOrder(run=federation.run_id, round=rounds, recipe=recipe)

    reports = _ask(
        grid,
        federation,
        run,
        ("evaluate.reference", ReferenceReport),
        order,
        initial_arrays(config),
        deadline(config, len(federation.registry.cards), config.training.rounds),
    )
    return {
        name: {"sites": {s: r.metrics[name] for s, r in reports.items() if name in r.metrics}}
        for name in config.references
    }


def _ask(
    grid: Grid,
    federation: Federation,
    run: RunDirectory,
    kind: tuple[str, type[R]],
    order: Callable[[SiteCard], tuple[int, BaseModel]],
    arrays: Arrays,
    timeout: float,
) -> dict[str, R]:
    """Send every connected site an order with arrays; give the reports of those that answer.

    Parameters
    ----------
    grid, federation, run
    kind : (str, type)
        Type of the message, and of the report.
    order : callable
        Gives the round that the report must name, and the order.
    arrays : mapping of str to ndarray
    timeout : float
        Seconds.
    """
    message_type, report_type = kind
    cards, absent = federation.registry.cards, federation.registry.absent
    blobs: dict[frozenset[str], bytes] = {}
    messages = []
    for node, card in cards.items():
        if node in absent:
            continue
        own = own_arrays(arrays, card)
        if (names := frozenset(own)) not in blobs:
            blobs[names] = _EXACT.broadcast(own)
        messages.append(request(message_type, node, order(card)[1], blobs[names], timeout))
    refusals = {
        card.name: "not connected" if node in absent else f"no answer within {timeout:.0f} s"
        for node, card in cards.items()
    }
    reports: dict[str, R] = {}
    for node, reply in replies(grid, messages, timeout):
        card = cards[node]
        run.event("answered", site=card.name)
        try:
            reports[card.name] = read_report(report_type, reply, card, order(card)[0])
            del refusals[card.name]
        except Refused as refused:
            refusals[card.name] = str(refused)
    for site, why in sorted(refusals.items()):
        run.event("refused", site=site, reason=why)
    return dict(sorted(reports.items()))
