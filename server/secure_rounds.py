"""Secure aggregation at the server: the statements of the sites, and the sum of masked updates."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

import numpy as np
from flwr.app import Message
from flwr.serverapp import Grid
from numpy.typing import NDArray
from pydantic import ValidationError

from mdmt.algorithms import State
from mdmt.blob import Arrays, unpack
from mdmt.errors import Refused, RegistrationError, RunError
from mdmt.messages import KeyOrder, KeyStatement, Metrics, SecureRound, SiteCard
from mdmt.privacy.metric_sums import METRICS, MetricLayout, MetricSums, from_words
from mdmt.privacy.statements import signer_of
from mdmt.privacy.tables import cohort_problem, fixed_point, round_table
from server.federation import Federation
from server.messaging import Replies, report_text
from server.requests import deadline, request
from server.run import RunDirectory

_KEYS = "query.keys"
"""Type of the message that asks for a statement."""


def form_cohort(grid: Grid, federation: Federation, run: RunDirectory) -> None:
    """Fix the sites of a run: ask each one for its statement, unless a checkpoint has them.

    Later the registry admits no other site.

    Raises
    ------
    RegistrationError
        A site did not answer, or the sum over these sites shows too much.
    """
    config, registry = federation.config, federation.registry
    if not federation.statements:
        federation.statements = _statements(grid, federation)
        if problem := cohort_problem(config, federation.statements):
            raise RegistrationError(problem)
    for site in registry.close(federation.statements):
        run.event("refused", site=site, reason="secure aggregation: the sites of a run are fixed")
    for name, card in registry.sites.items():
        if problem := _difference(federation.statements[name], card):
            raise RegistrationError(f"site {name}: {problem}; start a new run")


def _statements(grid: Grid, federation: Federation) -> dict[str, KeyStatement]:
    cards, config = federation.registry.cards, federation.config
    order = KeyOrder(run=federation.run_id, recipe=federation.recipe)
    timeout = deadline(config, len(cards))
    messages = [request(_KEYS, node, order, b"", timeout) for node in cards]
    found: dict[str, KeyStatement] = {}
    problems = {card.name: "did not answer in time" for card in cards.values()}
    for node, reply in Replies(grid, messages, timeout):
        card = cards[node]
        try:
            found[card.name] = _read_statement(federation, card, reply)
            del problems[card.name]
        except Refused as refused:
            problems[card.name] = str(refused)
    if problems:
        told = "; ".join(f"site {name}: {why}" for name, why in sorted(problems.items()))
        raise RegistrationError(f"secure aggregation needs the key of every site: {told}")
    return dict(sorted(found.items()))


def _read_statement(federation: Federation, card: SiteCard, reply: Message) -> KeyStatement:
    """Read a statement. Each site checks again what it needs.

    Raises
    ------
    Refused
    """
    try:
        statement = KeyStatement.model_validate_json(report_text(reply))
        signer_of(statement)
    except (KeyError, ValidationError) as error:
        raise Refused("the reply has no valid statement") from error
    except ValueError as error:
        raise Refused(f"the statement {error}") from error
    if (statement.recipe, statement.run) != (federation.config.hash, federation.run_id):
        raise Refused("the statement is of another recipe or run")
    if problem := _difference(statement, card):
        raise Refused(problem)
    return statement


def _difference(statement: KeyStatement, card: SiteCard) -> str | None:
    """Return how a statement differs from the card of the site, or None."""
    if statement.name != card.name:
        return f"signed as site {statement.name[:64]}"
    if statement.counts != {task: card.labels(task) for task in card.tasks}:
        return "signed other numbers of labels than its card has"
    return None


def secure_table(federation: Federation) -> SecureRound | None:
    """Return the table of the next round; None without secure aggregation."""
    if not federation.statements:
        return None
    return round_table(federation.config, federation.statements, federation.selection.lr_factor)


def masked_arrays(blob: bytes, names: Collection[str], federation: Federation) -> Arrays:
    """Decode a masked update. Only its form can be checked: its numbers are random.

    Raises
    ------
    ValueError
    """
    arrays = unpack(blob)
    shapes: dict[str, tuple[int, ...]] = {n: federation.state.arrays[n].shape for n in names}
    shapes[METRICS] = (MetricLayout(federation.config, federation.statements).size, 2)
    if {name: array.shape for name, array in arrays.items()} != shapes:
        raise ValueError("names or shapes are not those of a masked update")
    if any(array.dtype != np.uint32 for array in arrays.values()):
        raise ValueError("a masked array is not uint32")
    return arrays


def add_masked(updates: Iterable[Arrays]) -> dict[str, NDArray[np.uint32]]:
    """Return the sum modulo 2^32, of the metrics modulo 2^64. One update is read at a time."""
    totals: dict[str, NDArray[np.uint32]] = {}
    for arrays in updates:
        for name, array in arrays.items():
            if name not in totals:
                totals[name] = array.copy()
            elif name == METRICS:
                totals[name] = (from_words(totals[name]) + from_words(array)).view(np.uint32)
            else:
                np.add(totals[name], array, out=totals[name])
        del arrays
    return totals


def combine_masked(federation: Federation, blobs: Iterable[bytes]) -> tuple[State, MetricSums]:
    """Compute the next state and the validation of the last one from the updates of all sites.

    Parameters
    ----------
    federation : Federation
    blobs : iterable of bytes
        Updates of all sites that `masked_arrays` accepted, in any order.

    Raises
    ------
    RunError
        The masks do not cancel.
    """
    state, config = federation.state, federation.config
    table = secure_table(federation)
    assert table is not None, "the federation uses secure aggregation"
    totals = add_masked(masked_arrays(blob, federation.uploaded, federation) for blob in blobs)
    numbers = from_words(totals.pop(METRICS))
    point, layout = fixed_point(table), MetricLayout(config, federation.statements)
    try:
        mean = {n: point.decode(total, state.arrays[n]) for n, total in totals.items()}
        sums = layout.decode(numbers)
    except ValueError as error:
        raise RunError(
            f"round {federation.round + 1}: the sum of the masked updates is {error}. The sites did"
            " not use the same table, arrays or keys; start a new run"
        ) from error
    return config.algorithm.combine(state, mean), sums


def sum_metrics(federation: Federation, metrics: Mapping[str, Metrics]) -> MetricSums:
    """Return metrics of single sites in the form of a masked sum."""
    layout = MetricLayout(federation.config, federation.statements)
    return layout.add(layout.encode(of_site) for of_site in metrics.values())
