"""Registration: query the sites, and check that they can form the federation."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping

from flwr.app import Message
from flwr.serverapp import Grid

from mdmt.audit_head import head_of
from mdmt.config import FederationConfig
from mdmt.errors import Refused, RegistrationError
from mdmt.messages import SiteCard
from server.flower import NodeInfo
from server.messaging import Replies
from server.quorum import quorum
from server.requests import deadline
from server.site_cards import read_card
from server.site_registry import SiteRegistry, node_name


def register_sites(
    grid: Grid,
    config: FederationConfig,
    on_event: Callable[..., None] = lambda kind, **facts: None,
    expected: Iterable[str] = (),
    former: Mapping[str, SiteCard] | None = None,
) -> SiteRegistry:
    """Query every connected node for its site card. Refuse a federation that cannot work.

    Parameters
    ----------
    grid : Grid
    config : FederationConfig
        In a simulation all `sites` must answer. Otherwise at least `quorum` sites must answer; with
        ``on_missing: continue`` a node that cannot answer, or whose card cannot be used, is left
        out.
    on_event : callable
        See `SiteRegistry`.
    expected : iterable of str
        Sites to wait for, at most `aggregation.join_timeout`.
    former : mapping of str to SiteCard, optional
        See `SiteRegistry`.

    Raises
    ------
    RegistrationError
        The message has one sentence for each problem.
    """
    registry = SiteRegistry(grid, config, on_event, former)
    wanted = max(quorum(config)[0], len({*expected, *config.sites}))
    nodes, answers = _query(grid, config, registry, wanted)
    if not nodes:
        raise RegistrationError(
            f"no site connected within {config.aggregation.join_timeout:.0f} s;"
            " start the sites, or raise aggregation.join_timeout"
        )
    cards: dict[str, tuple[NodeInfo, SiteCard]] = {}
    without: dict[str, str] = {}
    for node in nodes:
        name, card = node_name(node), None
        try:
            card = read_card(node, answers.get(node.node_id))
            if card is not None:
                name = card.name
                registry.check(card, cards)
                cards[card.name] = node, card
        except Refused as refused:
            without[name] = str(refused)
            if node.node_id not in answers:
                registry.forget(node)
    problems = [
        f"site {name} is missing" for name in sorted(set(config.sites) - {*cards, *without})
    ]
    problems += check_cards(config, [card for _, card in cards.values()])
    if problems or config.sites or config.aggregation.on_missing == "stop":
        problems = [f"{name}: {why}" for name, why in without.items()] + problems
    if problems:
        raise RegistrationError(f"registration failed: {'; '.join(problems)}")
    heads = {node_name(n): head_of(answers[n.node_id]) for n in nodes if n.node_id in answers}
    for name, why in without.items():
        on_event("refused", site=name, reason=why, head=heads.get(name))
    for _, (node, card) in sorted(cards.items()):
        registry.register(node, card, head_of(answers[node.node_id]))
    return registry


def _query(
    grid: Grid, config: FederationConfig, registry: SiteRegistry, wanted: int
) -> tuple[list[NodeInfo], dict[int, Message]]:
    """Wait for `wanted` nodes and query them. Return the nodes and their answers.

    If server and sites were restarted together, Flower lists sites as connected for a minute before
    they are. This function waits for them too. A SuperNode can also lose an answer while it ends an
    earlier run: a site that is connected and silent is asked again.
    """
    end = time.monotonic() + config.aggregation.join_timeout
    answers: dict[int, Message] = {}
    while True:
        nodes = registry.wait(lambda connected: len(connected) >= wanted, end)
        queries = registry.queries([node for node in nodes if node.node_id not in answers])
        found = Replies(grid, queries, deadline(config, len(queries)), patience=0.0)
        answers |= dict(found)
        silent = [node for node in nodes if node.node_id not in answers]
        if not silent or time.monotonic() >= end:
            return nodes, answers
        for node in silent:
            registry.forget(node)


def check_cards(config: FederationConfig, cards: Iterable[SiteCard]) -> list[str]:
    """Return each reason why these sites cannot form this federation, as a sentence."""
    cards = sorted(cards, key=lambda card: card.name)
    problems = []
    needed, why = quorum(config)
    if len(cards) < needed:
        problems.append(f"{len(cards)} sites answered, {why} needs at least {needed}")
    for task in config.tasks:
        if all(card.labels(task) == 0 for card in cards):
            problems.append(f"no site has training labels of the task {task}")
    return problems
