"""Who is there, with which tasks, and whether they can form this federation."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable

from flwr.app import Message
from flwr.serverapp import Grid

from mdmt.config import FederationConfig
from mdmt.errors import RegistrationError
from mdmt.messages import SiteCard
from server.flower import NodeInfo
from server.messaging import Refused, away, exchange
from server.site_registry import Roster, node_name, read_card, site_problems

__all__ = ["check_cards", "roll_call"]


def roll_call(
    grid: Grid,
    config: FederationConfig,
    on_event: Callable[..., None] = lambda kind, **facts: None,
    expected: Iterable[str] = (),
) -> Roster:
    """Ask every connected node for its card and refuse a federation that cannot work.

    Parameters
    ----------
    grid : Grid
    config : FederationConfig
        With `sites` (a simulation) all of them must answer; otherwise `aggregation.min_sites`
        must, and under ``on_missing: continue`` a node that cannot answer is left out.
    on_event : callable
        See `Roster`.
    expected : iterable of str
        Sites to wait for, for `aggregation.join_timeout` at most.

    Returns
    -------
    Roster
        The sites that take part.

    Raises
    ------
    RegistrationError
        One sentence per site that stands in the way.
    """
    roster = Roster(grid, config, on_event)
    wanted = max(config.aggregation.min_sites, len({*expected, *config.sites}))
    nodes, replies = _ask(grid, config, roster, wanted)
    if not nodes:
        raise RegistrationError(
            f"no site connected within {config.aggregation.join_timeout:.0f} s;"
            " start the sites, or raise aggregation.join_timeout"
        )
    answered: list[tuple[NodeInfo, SiteCard]] = []
    silent: dict[str, str] = {}
    for node in nodes:
        try:
            card = read_card(node, replies.get(node.node_id))
            if card is not None:
                answered.append((node, card))
        except Refused as refused:
            silent[node_name(node)] = str(refused)
            if node.node_id not in replies or away(replies[node.node_id]):
                roster.forget(node)
    problems = check_cards(config, [card for _, card in answered])
    if problems or config.sites or config.aggregation.on_missing == "stop":
        problems = [f"{name}: {why}" for name, why in silent.items()] + problems
    if problems:
        raise RegistrationError(f"the roll call failed: {'; '.join(problems)}")
    for name, why in silent.items():
        on_event("refused", site=name, reason=why)
    for node, card in sorted(answered, key=lambda pair: pair[1].name):
        roster.admit(node, card)
    return roster


def _ask(
    grid: Grid, config: FederationConfig, roster: Roster, wanted: int
) -> tuple[list[NodeInfo], dict[int, Message]]:
    """Wait for as many nodes as are `wanted` and ask them; the nodes, and replies by node.

    For a minute after server and sites were restarted together, Flower takes sites to be connected
    that are not yet: those are waited for like any other.
    """
    deadline = time.monotonic() + config.aggregation.join_timeout
    replies: dict[int, Message] = {}
    while True:
        nodes = roster.wait(lambda connected: len(connected) >= wanted, deadline)
        replies |= exchange(grid, roster.questions(nodes), config.training.round_timeout)
        gone = [node for node in nodes if away(replies.get(node.node_id))]
        if not gone or time.monotonic() >= deadline:
            return nodes, replies
        for node in gone:
            roster.forget(node)


def check_cards(config: FederationConfig, cards: Iterable[SiteCard]) -> list[str]:
    """Every reason why these sites cannot form this federation, a sentence each."""
    cards = sorted(cards, key=lambda card: card.name)
    names = [card.name for card in cards]
    problems = [f"site {name} is missing" for name in sorted(set(config.sites) - set(names))]
    if len(cards) < config.aggregation.min_sites:
        problems.append(f"{len(cards)} sites answered, {config.aggregation.min_sites} are needed")
    for position, card in enumerate(cards):
        problems += site_problems(config, card, cards[:position])
    for task in config.tasks:
        if all(card.labels(task) == 0 for card in cards):
            problems.append(f"no site has training labels of the task {task}")
    return problems
