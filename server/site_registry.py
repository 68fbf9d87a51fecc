"""Which sites there are: asked at the roll call, and whenever one appears later."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable

from flwr.app import ConfigRecord, Message, MessageType, RecordDict
from flwr.serverapp import Grid
from pydantic import ValidationError

from mdmt.config import FederationConfig
from mdmt.messages import Query, SiteCard
from server.flower import NodeInfo
from server.messaging import Refused, away, lost, reason

__all__ = ["Roster", "node_name", "read_card", "site_problems"]


_PAUSE = 0.2
"""Seconds between two looks for nodes."""


class Roster:
    """Cards of the sites that may take part, and which of their nodes are connected.

    A node is asked for its card when it appears, and again after it reconnected; a site keeps the
    card it was admitted with.

    Parameters
    ----------
    grid : Grid
    config : FederationConfig
    on_event : callable
        Told ``"joined"`` or ``"refused"``, with ``site`` and, if refused, ``reason``.
    """

    def __init__(self, grid: Grid, config: FederationConfig, on_event: Callable[..., None]) -> None:
        self.cards: dict[int, SiteCard] = {}
        self.connected: set[int] = set()
        self._grid, self._config, self._on_event = grid, config, on_event
        self._asked: dict[int, str] = {}
        self._waiting: dict[str, tuple[NodeInfo, float]] = {}

    @property
    def sites(self) -> dict[str, SiteCard]:
        """Cards by site name, sorted."""
        return {card.name: card for card in sorted(self.cards.values(), key=lambda c: c.name)}

    def look(self) -> list[NodeInfo]:
        """Note which nodes are connected."""
        nodes = sorted(self._grid.get_nodes(), key=lambda node: (node.name, node.node_id))
        self.connected = {node.node_id for node in nodes}
        return nodes

    def wait(
        self, enough: Callable[[set[int]], bool], deadline: float | None = None
    ) -> list[NodeInfo]:
        """Look until enough nodes are connected, or the (monotonic) deadline has passed.

        Without one, for `aggregation.join_timeout`.
        """
        if deadline is None:
            deadline = time.monotonic() + self._config.aggregation.join_timeout
        while True:
            nodes = self.look()
            if enough(self.connected) or time.monotonic() >= deadline:
                return nodes
            time.sleep(_PAUSE)

    def forget(self, node: NodeInfo) -> None:
        """Ask a node again that left a question unanswered."""
        self._asked.pop(node.node_id, None)

    def questions(self, nodes: Iterable[NodeInfo]) -> list[Message]:
        """Write the question for the card of every node that has not been asked yet."""
        query = Query(recipe=self._config.recipe).model_dump_json()
        content = RecordDict({"config": ConfigRecord({"order": query})})
        timeout = self._config.training.round_timeout
        messages = []
        for node in nodes:
            if node.node_id in self.cards or self._asked.get(node.node_id) == _since(node):
                continue
            self._asked[node.node_id] = _since(node)
            messages.append(Message(content, node.node_id, MessageType.QUERY, ttl=timeout))
        return messages

    def admit(self, node: NodeInfo, card: SiteCard) -> None:
        """Let a site take part, under the node it is connected by now."""
        for former in [n for n, known in self.cards.items() if known.name == card.name]:
            del self.cards[former]
        self.cards[node.node_id] = card
        self._on_event("joined", site=card.name)

    def admit_joiners(self) -> None:
        """Ask nodes that appeared since, and admit those whose earlier answer has arrived."""
        if self._waiting:
            for reply in self._grid.pull_messages(list(self._waiting)):
                node, _ = self._waiting.pop(reply.metadata.reply_to_message_id)
                if lost(reply) or away(reply):
                    self.forget(node)
                else:
                    self._consider(node, reply)
        for message_id, (node, deadline) in list(self._waiting.items()):
            if time.monotonic() > deadline:
                del self._waiting[message_id]
                self.forget(node)
        nodes = {node.node_id: node for node in self.look()}
        if questions := self.questions(nodes.values()):
            self._grid.push_messages(questions)
        deadline = time.monotonic() + self._config.training.round_timeout
        for message in questions:
            node = nodes[message.metadata.dst_node_id]
            self._waiting[message.metadata.message_id] = node, deadline

    def alone(self, node: int) -> Roster:
        """A roster of one of the sites."""
        one = Roster(self._grid, self._config, self._on_event)
        one.cards, one.connected = {node: self.cards[node]}, {node}
        return one

    def _consider(self, node: NodeInfo, reply: Message) -> None:
        try:
            card = read_card(node, reply)
            if card is None:
                return
            others = [known for known in self.sites.values() if known.name != card.name]
            if problems := site_problems(self._config, card, others):
                raise Refused("; ".join(problems))
        except Refused as refused:
            self._on_event("refused", site=node_name(node), reason=str(refused))
        else:
            self.admit(node, card)


def node_name(node: NodeInfo) -> str:
    """The name a node's key was registered under, or its number where nodes have no names."""
    return node.name or f"node {node.node_id}"


def read_card(node: NodeInfo, reply: Message | None) -> SiteCard | None:
    """Read the card a node answered with; None for a simulated node that no site uses.

    Raises
    ------
    Refused
        It did not answer, answered something else, or answered for another site.
    """
    if reply is None:
        raise Refused("did not answer in time")
    if reply.has_error():
        raise Refused(reason(reply))
    try:
        text = str(reply.content.config_records["report"]["json"])
        card = None if text == "null" else SiteCard.model_validate_json(text)
    except (KeyError, ValidationError) as error:
        raise Refused("did not send a site card") from error
    if card is not None and node.name and node.name != card.name:
        raise Refused(f"holds the key of {node.name} but says it is {card.name}")
    return card


def site_problems(
    config: FederationConfig, card: SiteCard, others: Iterable[SiteCard]
) -> list[str]:
    """Every reason why a site cannot take part in this federation, a sentence each."""
    problems = []
    if card.name in {other.name for other in others}:
        problems.append(f"two sites are called {card.name}")
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
    return problems


def _since(node: NodeInfo) -> str:
    """When a node connected."""
    return str(node.last_activated_at)
