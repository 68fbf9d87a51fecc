"""The site registry: the registered sites, and their connected nodes."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable, Mapping

from flwr.app import ConfigRecord, Message, MessageType, RecordDict
from flwr.serverapp import Grid

from mdmt.audit_head import head_of
from mdmt.config import FederationConfig
from mdmt.errors import Refused
from mdmt.messages import Query, SiteCard
from server.flower import NodeInfo
from server.messaging import is_lost
from server.site_cards import check_card, read_card

_PAUSE = 0.2
"""Seconds between two polls for nodes."""


class SiteRegistry:
    """The cards of registered sites, and their connected nodes.

    A node is queried for its card when it appears, and again after a reconnection. A site keeps the
    card of its registration.

    Parameters
    ----------
    grid : Grid
    config : FederationConfig
    on_event : callable
        Called with ``"joined"`` or ``"refused"``, ``site``, ``head`` and, if refused, ``reason``.
    former : mapping of str to SiteCard
        Cards of the sites that took part in this run before it was resumed.
    """

    def __init__(
        self,
        grid: Grid,
        config: FederationConfig,
        on_event: Callable[..., None],
        former: Mapping[str, SiteCard] | None = None,
    ) -> None:
        self.cards: dict[int, SiteCard] = {}
        self.connected: set[int] = set()
        self.left: set[int] = set()
        """Nodes that stayed away until a deadline. Nobody waits for them before they are back."""
        self._former = dict(former or {})
        self._grid, self._config, self._on_event = grid, config, on_event
        self._queried: dict[int, str] = {}
        self._waiting: dict[str, tuple[NodeInfo, float]] = {}
        self._admitted: frozenset[str] | None = None

    @property
    def sites(self) -> dict[str, SiteCard]:
        """Cards by site name, sorted."""
        return {card.name: card for card in sorted(self.cards.values(), key=lambda c: c.name)}

    def validators(self) -> dict[str, list[str]]:
        """Return the sites by task that have validation labels, or withhold their number."""
        return {
            task: [
                name
                for name, card in self.sites.items()
                if task in card.tasks and card.counts.get(task, {}).get("val", 0) != 0
            ]
            for task in self._config.tasks
        }

    def poll(self) -> list[NodeInfo]:
        """Update the connected nodes."""
        nodes = sorted(self._grid.get_nodes(), key=lambda node: (node.name, node.node_id))
        self.connected = {node.node_id for node in nodes}
        self.left -= self.connected
        return nodes

    def wait(
        self, enough: Callable[[set[int]], bool], deadline: float | None = None
    ) -> list[NodeInfo]:
        """Poll until enough nodes are connected or the (monotonic) deadline has passed.

        Without a deadline, poll for `aggregation.join_timeout`.
        """
        if deadline is None:
            deadline = time.monotonic() + self._config.aggregation.join_timeout
        while True:
            nodes = self.poll()
            if enough(self.connected) or time.monotonic() >= deadline:
                return nodes
            time.sleep(_PAUSE)

    def forget(self, node: NodeInfo) -> None:
        """Let a node that did not answer be queried again."""
        self._queried.pop(node.node_id, None)

    def queries(self, nodes: Iterable[NodeInfo]) -> list[Message]:
        """Return the queries for all nodes that have not been queried yet."""
        query = Query(recipe=self._config.recipe).model_dump_json()
        content = RecordDict({"config": ConfigRecord({"order": query})})
        timeout = self._config.training.round_timeout
        messages = []
        for node in nodes:
            since = str(node.last_activated_at)
            if node.node_id in self.cards or self._queried.get(node.node_id) == since:
                continue
            self._queried[node.node_id] = since
            messages.append(Message(content, node.node_id, MessageType.QUERY, ttl=timeout))
        return messages

    def check(self, card: SiteCard, others: Collection[str]) -> None:
        """Check that a site can take part beside `others`; see `check_card`."""
        check_card(self._config, card, others, self._former.get(card.name))

    def register(self, node: NodeInfo, card: SiteCard, head: str | None) -> None:
        """Register a site with its current node. `head` came with its card."""
        for former in [n for n, known in self.cards.items() if known.name == card.name]:
            del self.cards[former]
        self.cards[node.node_id] = card
        before = self._former.get(card.name, card)
        self._former[card.name] = card
        if before.data != card.data:
            message = f"{card.name} has other data than when it registered before"
            self._on_event("notice", message=message)
        self._on_event("joined", site=card.name, head=head)

    def close(self, sites: Iterable[str]) -> list[str]:
        """Admit no other sites from now on. Return the registered sites that are removed."""
        self._admitted = frozenset(sites)
        others = {n: card.name for n, card in self.cards.items() if card.name not in self._admitted}
        for node in others:
            del self.cards[node]
        return sorted(others.values())

    def register_joiners(self) -> None:
        """Query new nodes, and register nodes that have answered an earlier query.

        This does not wait: the answer is read before a later round.
        """
        if self._waiting:
            for reply in self._grid.pull_messages(list(self._waiting)):
                node, _ = self._waiting.pop(reply.metadata.reply_to_message_id)
                if is_lost(reply):
                    self.forget(node)
                else:
                    self._consider(node, reply)
        for message_id, (node, deadline) in list(self._waiting.items()):
            if time.monotonic() > deadline:
                del self._waiting[message_id]
                self.forget(node)
        nodes = {node.node_id: node for node in self.poll()}
        if queries := self.queries(nodes.values()):
            self._grid.push_messages(queries)
        deadline = time.monotonic() + self._config.training.round_timeout
        for message in queries:
            node = nodes[message.metadata.dst_node_id]
            self._waiting[message.metadata.message_id] = node, deadline

    def _consider(self, node: NodeInfo, reply: Message) -> None:
        try:
            card = read_card(node, reply)
            if card is None:
                return
            if self._admitted is not None and card.name not in self._admitted:
                raise Refused("secure aggregation: the sites of a run are fixed")
            self.check(card, set(self.sites) - {card.name})
        except Refused as refused:
            self._on_event(
                "refused", site=node_name(node), reason=str(refused), head=head_of(reply)
            )
        else:
            self.register(node, card, head_of(reply))


def node_name(node: NodeInfo) -> str:
    """Return the registered name of a node's key, or its number if it has no name."""
    return node.name or f"node {node.node_id}"
