"""Rounds: send, train, average, book what the sites said of the backbone they received."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from flwr.app import ConfigRecord, Message, MessageType, RecordDict
from flwr.serverapp import Grid
from numpy.typing import NDArray

from mdmt.config import WireConfig
from mdmt.errors import RunError
from mdmt.messages import (
    EvaluateOrder,
    EvaluateReport,
    Metrics,
    SiteCard,
    TrainOrder,
    TrainReport,
)
from mdmt.metrics import weighted_mean_metrics
from mdmt.wire import Arrays
from server.downlink import Downlink
from server.federation import Federation
from server.messaging import Conversation, Questions, Refused, converse, reason
from server.optimiser import load_optimiser_arrays, optimiser_arrays
from server.records import from_record, to_record
from server.run import RunDirectory
from server.strategy import Round, SiteAverage, build_strategy
from server.update import read_report
from server.weighting import loss_coefficients

__all__ = ["evaluate_round", "rounds_of", "run_rounds"]


def run_rounds(grid: Grid, federation: Federation, run: RunDirectory, rounds: int) -> None:
    """Train up to round `rounds`, leaving the final backbone in `federation.arrays`."""
    timeout = federation.config.training.round_timeout
    converse(grid, rounds_of(grid, federation, run, rounds), timeout)


def rounds_of(
    grid: Grid, federation: Federation, run: RunDirectory, rounds: int
) -> Conversation[None]:
    """The rounds up to `rounds` as a conversation: whoever holds it sends what it asks.

    Every message of round r also brings the validation metrics of round r-1's backbone; they are
    booked in the history line of round r-1. Sites that appear are admitted between rounds.
    """
    strategy = build_strategy(
        federation.config,
        cards=federation.roster.cards,
        plain={k: v for k, v in federation.arrays.items() if k not in federation.trained},
        travelling=federation.travelling,
        write_order=_order_writer(federation),
        downlink=federation.downlink,
        folder=run.folder,
    )
    load_optimiser_arrays(strategy, federation.optimiser, federation.trained)
    for number in range(federation.round + 1, rounds + 1):
        started = time.monotonic()
        run.event("round", arm=federation.arm, round=number, rounds=rounds)
        strategy.absent = _gather(federation, run)
        mean = yield from _train_and_average(grid, federation, strategy, run, number)
        reports = strategy.round.reports
        book(federation, run, {site: report.validation for site, report in reports.items()})
        federation.arrays = federation.arrays | strategy.plain | mean
        federation.optimiser = optimiser_arrays(strategy, federation.trained)
        _note_parts(federation, run, reports)
        federation.line = _history_line(number, strategy.round, time.monotonic() - started)
        federation.round = number
        if federation.arm == "federated":
            federation.save(run)
    federation.last_reports = yield from _evaluate(federation, run, rounds, federation.arrays)
    book(federation, run, {site: r.metrics["val"] for site, r in federation.last_reports.items()})


def _note_parts(
    federation: Federation, run: RunDirectory, reports: Mapping[str, TrainReport]
) -> None:
    """Count who took part, and say whose heads are not those it trained before."""
    for site, report in reports.items():
        rounds = federation.taken_part.get(site, 0)
        if rounds and report.new_heads:
            lost = f"{site} has kept nothing of the {rounds} rounds it trained: its heads are new"
            run.event("notice", round=report.round, message=lost)
        federation.taken_part[site] = rounds + 1


def _gather(federation: Federation, run: RunDirectory) -> frozenset[int]:
    """Admit sites that have come, wait while too few are there; the nodes that are not."""
    roster = federation.roster
    if federation.arm == "federated":
        before = set(roster.sites)
        roster.admit_joiners()
        if joined := set(roster.sites) - before:
            new = loss_coefficients(federation.config, roster.sites)
            federation.coefficients |= {
                site: new[site] for site in joined - set(federation.coefficients)
            }
            run.write_sites(federation.config, roster.sites)
    needed = federation.config.aggregation.min_sites
    roster.wait(lambda connected: len(connected & set(roster.cards)) >= needed)
    return frozenset(set(roster.cards) - roster.connected)


def _order_writer(federation: Federation) -> Callable[[str, int], str]:
    """Give the function that writes a site's order for a round."""

    def write(site: str, number: int) -> str:
        return TrainOrder(
            run=federation.run_id,
            arm=federation.arm,
            round=number,
            recipe=federation.recipe,
            coefficients=federation.coefficients[site],
            lr_factor=federation.selection.lr_factor,
            keep=federation.selection.kept_rounds,
        ).model_dump_json()

    return write


def _train_and_average(
    grid: Grid, federation: Federation, strategy: SiteAverage, run: RunDirectory, number: int
) -> Conversation[dict[str, NDArray[Any]]]:
    """Let the sites of a round train; return the trained backbone arrays' new values."""

    def arriving() -> Iterator[Message]:
        for node, reply in replies:
            site = federation.roster.cards[node].name
            run.event("reply", arm=federation.arm, round=number, site=site)
            yield reply

    trainable = to_record({name: federation.arrays[name] for name in federation.trained})
    messages = strategy.configure_train(number, trainable, ConfigRecord(), grid)
    replies = yield Questions([*messages], strategy.again)
    record, _ = strategy.aggregate_train(number, arriving())
    assert record is not None, "aggregate_train raises when there is nothing to average"
    # Server optimisers compute in float64; what travels keeps its dtype.
    return {
        k: v.astype(federation.arrays[k].dtype, copy=False) for k, v in from_record(record).items()
    }


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


def book(federation: Federation, run: RunDirectory, validation: Mapping[str, Metrics]) -> None:
    """Complete the history line of the last round with the validation metrics of its backbone."""
    line = federation.line
    tasks = weighted_mean_metrics(validation)
    federation.selection.book(line["round"], tasks)
    if federation.arm == "local":
        return
    for site, metrics in validation.items():
        line["sites"].setdefault(site, {})["validation"] = metrics
    run.history(line | {"tasks": tasks})
    run.event("booked", round=line["round"], tasks=tasks, refusals=line["refusals"])


def evaluate_round(
    grid: Grid, federation: Federation, run: RunDirectory, number: int, arrays: Arrays
) -> dict[str, EvaluateReport]:
    """Let every site evaluate the backbone of round `number` with its own heads of that round."""
    timeout = federation.config.training.round_timeout
    return converse(grid, _evaluate(federation, run, number, arrays), timeout)


def _evaluate(
    federation: Federation, run: RunDirectory, number: int, arrays: Arrays
) -> Conversation[dict[str, EvaluateReport]]:
    run.event("evaluate", arm=federation.arm, round=number)
    order = EvaluateOrder(
        run=federation.run_id, arm=federation.arm, round=number, recipe=federation.recipe
    )
    timeout = federation.config.training.round_timeout
    absent = _gather(federation, run)
    messages = []
    exact = Downlink(WireConfig())  # what is tested is what is released
    exact.advance(arrays)
    for node, card in federation.roster.cards.items():
        if node in absent:
            continue
        own, _ = exact.record(card)
        config = ConfigRecord({"order": order.model_dump_json()})
        content = RecordDict({"arrays": own, "config": config})
        messages.append(Message(content, node, MessageType.EVALUATE, ttl=timeout))
    replies = dict((yield Questions(messages)))
    reports: dict[str, EvaluateReport] = {}
    for node, card in federation.roster.cards.items():
        silence = "not connected" if node in absent else f"no answer within {timeout:.0f} s"
        try:
            reports[card.name] = _read_evaluation(card, number, replies.get(node), silence)
        except Refused as refused:
            run.event("refused", round=number, site=card.name, reason=str(refused))
    if not reports:
        raise RunError(f"no site could evaluate the backbone of round {number}")
    return dict(sorted(reports.items()))


def _read_evaluation(
    card: SiteCard, number: int, reply: Message | None, silence: str
) -> EvaluateReport:
    if reply is None:
        raise Refused(silence)
    if reply.has_error():
        raise Refused(reason(reply))
    return read_report(EvaluateReport, reply, card, number, "an evaluation report")
