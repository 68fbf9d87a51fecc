"""Who is there, with which tasks, and whether they can form this federation."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable

from flwr.app import ConfigRecord, Message, MessageType, RecordDict
from flwr.serverapp import Grid
from pydantic import ValidationError

from mdmt.config import FederationConfig
from mdmt.errors import RollCallError
from mdmt.messages import Query, SiteCard
from server.exchange import exchange, reason

__all__ = ["check_cards", "roll_call"]


def roll_call(
    grid: Grid,
    config: FederationConfig,
    on_card: Callable[[str], None] = lambda site: None,
) -> dict[int, SiteCard]:
    """Ask every connected node for its card and refuse a federation that cannot work.

    Parameters
    ----------
    grid : Grid
    config : FederationConfig
        With `sites` (a simulation) all of them must answer; otherwise `aggregation.min_sites` must.
    on_card : callable
        Called with the name of each site, as it answers.

    Returns
    -------
    dict of int to SiteCard
        Node id → card, in order of site names.

    Raises
    ------
    RollCallError
        One sentence per site that stands in the way.
    """
    nodes = _wait_for_nodes(grid, config)
    query = RecordDict(
        {"config": ConfigRecord({"order": Query(recipe=config.recipe).model_dump_json()})}
    )
    timeout = config.training.round_timeout
    messages = [Message(query, node, MessageType.QUERY, ttl=timeout) for node in nodes]
    cards: dict[int, SiteCard] = {}
    problems: list[str] = []
    replies = exchange(grid, messages, timeout)
    for node in nodes:
        reply = replies.get(node)
        if reply is None:
            problems.append(f"node {node} did not answer within {timeout:.0f} s")
        elif reply.has_error():
            problems.append(f"node {node} failed: {reason(reply)}")
        else:
            try:
                text = str(reply.content.config_records["report"]["json"])
                if text == "null":  # a simulated node that no site of the federation uses
                    continue
                cards[node] = SiteCard.model_validate_json(text)
                on_card(cards[node].name)
            except (KeyError, ValidationError):
                problems.append(f"node {node} did not send a site card")
    problems += check_cards(config, cards.values())
    if problems:
        raise RollCallError(f"the roll call failed: {'; '.join(problems)}")
    return dict(sorted(cards.items(), key=lambda item: item[1].name))


def check_cards(config: FederationConfig, cards: Iterable[SiteCard]) -> list[str]:
    """Every reason why these sites cannot form this federation, a sentence each."""
    cards = sorted(cards, key=lambda card: card.name)
    names = [card.name for card in cards]
    problems = [
        f"two sites are called {name}" for name in sorted(set(names)) if names.count(name) > 1
    ]
    problems += [f"site {name} is missing" for name in sorted(set(config.sites) - set(names))]
    if len(cards) < config.aggregation.min_sites:
        problems.append(f"{len(cards)} sites answered, {config.aggregation.min_sites} are needed")
    for card in cards:
        if card.federation != config.hash:
            problems.append(f"site {card.name} answered for another federation")
        for task, space in card.tasks.items():
            if task not in config.tasks:
                problems.append(
                    f"site {card.name} offers the task {task}, which the federation does not define"
                )
            elif difference := config.space(task).disagreement(space):
                problems.append(f"site {card.name} disagrees on the task {task}: {difference}")
        if all(card.labels(task) == 0 for task in card.tasks):
            problems.append(f"site {card.name} has no labelled training sample")
        untold = [task for task in card.tasks if card.labels(task) is None]
        if untold and config.aggregation.weighting != "uniform":
            problems.append(
                f"site {card.name} does not tell how many labels of the task {untold[0]} it has,"
                " which needs aggregation.weighting: uniform"
            )
    for task in config.tasks:
        if all(card.labels(task) == 0 for card in cards):
            problems.append(f"no site has training labels of the task {task}")
    return problems


def _wait_for_nodes(grid: Grid, config: FederationConfig) -> list[int]:
    """Node ids, as soon as enough are connected or `aggregation.join_timeout` has passed."""
    expected = max(config.aggregation.min_sites, len(config.sites))
    deadline = time.monotonic() + config.aggregation.join_timeout
    while len(nodes := sorted(grid.get_node_ids())) < expected and time.monotonic() < deadline:
        time.sleep(0.2)
    if not nodes:
        raise RollCallError(
            f"no site connected within {config.aggregation.join_timeout:.0f} s;"
            " start the sites, or raise aggregation.join_timeout"
        )
    return nodes
