"""Rounds: send, train, average, book what the sites said of the backbone they received."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, Message, MessageType, RecordDict
from flwr.serverapp import Grid
from numpy.typing import NDArray
from pydantic import ValidationError

from mdmt.config import FederationConfig
from mdmt.errors import RunError
from mdmt.messages import Arm, EvaluateOrder, EvaluateReport, Metrics, SiteCard, TrainOrder
from mdmt.metrics import weighted_mean_metrics
from server.exchange import exchange, reason
from server.optimiser import optimiser_arrays
from server.run import RunDirectory
from server.selection import Selection
from server.strategy import (
    Round,
    SiteAverage,
    build_strategy,
    concerns,
    from_record,
    to_record,
)
from server.weighting import loss_coefficients

__all__ = ["Federation", "evaluate_round", "run_rounds"]

Arrays = dict[str, NDArray[np.floating]]


@dataclass
class Federation:
    """A federation under way: who takes part, and the backbone as it stands.

    Attributes
    ----------
    config : FederationConfig
    cards : dict of int to SiteCard
        Node id → card.
    recipe : str
        What sites are told; that of the federation in every arm.
    run_id : str
        Sites keep their heads under it.
    arm : {"federated", "local"}
        ``local``: the same rounds for one site alone, as a reference.
    arrays : dict of str to ndarray
        What sites are sent: the backbone's float arrays, and shared heads.
    trained : tuple of str
        Names in `arrays` that a server optimiser acts on.
    travelling : frozenset of str
        Names in `arrays` that sites send back.
    initial : dict of str to ndarray
        `arrays` as they were before round 1.
    selection : Selection
        Best rounds so far.
    taken_part : dict of str to int
        Site → rounds in which its update was used.
    last_reports : dict of str to EvaluateReport
        What the sites said of the final backbone.
    """

    config: FederationConfig
    cards: dict[int, SiteCard]
    recipe: str
    run_id: str
    arm: Arm
    arrays: Arrays
    initial: Arrays
    trained: tuple[str, ...]
    travelling: frozenset[str]
    selection: Selection
    taken_part: dict[str, int] = field(default_factory=dict)
    last_reports: dict[str, EvaluateReport] = field(default_factory=dict)


def run_rounds(grid: Grid, federation: Federation, run: RunDirectory, rounds: int) -> None:
    """Train for `rounds` rounds, leaving the final backbone in `federation.arrays`.

    Every message of round r also brings the validation metrics of round r-1's backbone; they are
    booked in the history line of round r-1.
    """
    strategy = build_strategy(
        federation.config,
        cards=federation.cards,
        plain={k: v for k, v in federation.arrays.items() if k not in federation.trained},
        travelling=federation.travelling,
        write_order=_order_writer(federation),
    )
    line: dict[str, Any] = {"round": 0, "sites": {}, "refusals": {}, "seconds": 0.0}
    for number in range(1, rounds + 1):
        started = time.monotonic()
        run.event("round", arm=federation.arm, round=number, rounds=rounds)
        mean = _train_and_average(grid, federation, strategy, run, number)
        reports = strategy.round.reports
        book(federation, run, line, {site: report.validation for site, report in reports.items()})
        federation.arrays = federation.arrays | strategy.plain | mean
        for site in reports:
            federation.taken_part[site] = federation.taken_part.get(site, 0) + 1
        line = _history_line(number, strategy.round, time.monotonic() - started)
        if federation.arm == "federated":
            optimiser = optimiser_arrays(strategy, federation.trained)
            run.checkpoint(
                "last",
                federation.arrays | {f"optimiser.{name}": v for name, v in optimiser.items()},
                {"round": number, "run": federation.run_id},
            )
    federation.last_reports = evaluate_round(grid, federation, run, rounds, federation.arrays)
    final = {site: report.metrics["val"] for site, report in federation.last_reports.items()}
    book(federation, run, line, final)


def _order_writer(federation: Federation) -> Callable[[str, int], str]:
    """Give the function that writes a site's order for a round."""
    cards = {card.name: card for card in federation.cards.values()}
    coefficients = loss_coefficients(federation.config, cards)

    def write(site: str, number: int) -> str:
        return TrainOrder(
            run=federation.run_id,
            arm=federation.arm,
            round=number,
            recipe=federation.recipe,
            coefficients=coefficients[site],
            lr_factor=federation.selection.lr_factor,
            keep=federation.selection.best_rounds,
        ).model_dump_json()

    return write


def _train_and_average(
    grid: Grid, federation: Federation, strategy: SiteAverage, run: RunDirectory, number: int
) -> Arrays:
    """Let the sites of a round train; return the trained backbone arrays' new values."""

    def tell(node: int) -> None:
        site = federation.cards[node].name
        run.event("reply", arm=federation.arm, round=number, site=site)

    trainable = to_record({name: federation.arrays[name] for name in federation.trained})
    messages = strategy.configure_train(number, trainable, ConfigRecord(), grid)
    replies = exchange(grid, messages, federation.config.training.round_timeout, tell)
    record, _ = strategy.aggregate_train(number, replies.values())
    assert record is not None, "aggregate_train raises when there is nothing to average"
    # Server optimisers compute in float64; what travels keeps its dtype.
    return {k: v.astype(federation.arrays[k].dtype) for k, v in from_record(record).items()}


def _history_line(number: int, done: Round, seconds: float) -> dict[str, Any]:
    """What a round brought, but for the validation of its backbone, which the next one brings."""
    return {
        "round": number,
        "sites": {
            site: {
                "weight": done.weights[site],
                "images": report.images,
                "steps": report.steps,
                "seconds": round(report.seconds, 3),
                "losses": report.losses,
                "bytes_down": done.bytes_down[site],
                "bytes_up": done.bytes_up[site],
            }
            for site, report in done.reports.items()
        },
        "refusals": done.refusals,
        "seconds": round(seconds, 3),
    }


def book(
    federation: Federation,
    run: RunDirectory,
    line: dict[str, Any],
    validation: Mapping[str, Metrics],
) -> None:
    """Complete the history line of a round with the validation metrics of its backbone."""
    number = line["round"]
    tasks = weighted_mean_metrics(validation)
    improved = federation.selection.book(number, tasks, federation.arrays)
    if federation.arm == "local":
        return
    for site, metrics in validation.items():
        line["sites"].setdefault(site, {})["validation"] = metrics
    run.history(line | {"tasks": tasks})
    run.event("booked", round=number, tasks=tasks, refusals=line["refusals"])
    for task in improved:
        facts = {"round": number, "run": federation.run_id, "task": task}
        run.checkpoint(f"best-{task}", federation.arrays, facts)


def evaluate_round(
    grid: Grid,
    federation: Federation,
    run: RunDirectory,
    number: int,
    arrays: Mapping[str, NDArray[np.floating]],
) -> dict[str, EvaluateReport]:
    """Let every site evaluate the backbone of round `number` with its own heads of that round."""
    run.event("evaluate", arm=federation.arm, round=number)
    order = EvaluateOrder(
        run=federation.run_id, arm=federation.arm, round=number, recipe=federation.recipe
    )
    record = to_record(arrays)
    timeout = federation.config.training.round_timeout
    messages = []
    for node, card in federation.cards.items():
        own = ArrayRecord({name: array for name, array in record.items() if concerns(card, name)})
        config = ConfigRecord({"order": order.model_dump_json()})
        content = RecordDict({"arrays": own, "config": config})
        messages.append(Message(content, node, MessageType.EVALUATE, ttl=timeout))
    replies = exchange(grid, messages, timeout)
    reports: dict[str, EvaluateReport] = {}
    for node, card in federation.cards.items():
        reply = replies.get(node)
        if reply is None or reply.has_error():
            why = f"no answer within {timeout:.0f} s" if reply is None else reason(reply)
            run.event("refused", round=number, site=card.name, reason=why)
            continue
        try:
            text = str(reply.content.config_records["report"]["json"])
            reports[card.name] = EvaluateReport.model_validate_json(text)
        except (KeyError, ValidationError):
            why = "the reply is not an evaluation report"
            run.event("refused", round=number, site=card.name, reason=why)
    if not reports:
        raise RunError(f"no site could evaluate the backbone of round {number}")
    return dict(sorted(reports.items()))
