"""Send orders to sites until they are answered, and receive the replies that arrive in time."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from math import inf
from typing import TypeVar

from flwr.app import Message
from flwr.serverapp import Grid
from pydantic import ValidationError

from mdmt.audit_head import without_head
from mdmt.errors import Refused
from mdmt.frozen import MISSING, FrozenArrays
from mdmt.messages import (
    LONGEST_REPORT,
    EvaluateReport,
    ReferenceReport,
    SiteCard,
    TrainReport,
)
from mdmt.untrusted import shown
from server.claims import check_report
from server.flower import ErrorCode, NodeInfo
from server.requests import with_frozen

_FIRST_POLL, _LAST_POLL = 0.05, 1.0
"""Seconds between two polls. The pause grows while nothing arrives: each poll is a request."""
_AGAIN = 5.0
"""Seconds between two looks at the nodes while all are connected, and between two copies."""
R = TypeVar("R", TrainReport, EvaluateReport, ReferenceReport)


@dataclass
class _Order:
    """A message that has no reply yet.

    Attributes
    ----------
    message : Message
        The first copy. All copies have the same content.
    name : str
        Name of the node's key. The same site with a new node is known by it.
    node : int
        Node of the copies.
    activated : str
        When this node was activated, as it was known when the last copy was sent.
    sent : float
        Monotonic time of the last copy.
    copies : list of str
        Ids of the copies that may be answered, the newest last.
    lost : float or None
        Monotonic time since which no copy is on its way.
    """

    message: Message
    name: str
    node: int
    activated: str = ""
    sent: float = -inf
    copies: list[str] = field(default_factory=list)
    lost: float | None = field(default_factory=time.monotonic)

    def waits_for(self, node: NodeInfo) -> bool:
        """Return True if no copy is on its way to a connected node.

        A node that was activated meanwhile may know nothing of the earlier copy.
        """
        return self.lost is not None or node.last_activated_at != self.activated


class Replies:
    """The replies to messages, as pairs of a node and its reply.

    What Flower says in the stead of a site is not a reply (see `is_lost`). The same message is sent
    again when its node is connected, or another node of the same site: a site that has answered an
    order sends the stored reply again. The first reply to any copy counts.

    A site that says `MISSING` gets its order again, once, together with the frozen arrays.

    The messages are sent when this object is made. It does not keep a reply that it has yielded.
    Flower's own grid returns all replies that are ready at a poll, so these are in memory together.

    Parameters
    ----------
    grid : Grid
    messages : iterable of Message
        At most one per node.
    timeout : float
        Seconds until the deadline of all messages.
    patience : float
        Seconds to wait for a node that is lost; the default is until the deadline.
    frozen : FrozenArrays, optional

    Attributes
    ----------
    completed : set of int
        Nodes that got the frozen arrays with a second message.
    absent : set of int
        After the iteration: nodes without a reply that were given up, or are not connected.
    notice : callable
        Called with a node and a text that says what happened to its message.
    """

    def __init__(
        self,
        grid: Grid,
        messages: Iterable[Message],
        timeout: float,
        patience: float = inf,
        frozen: FrozenArrays | None = None,
    ) -> None:
        self.absent: set[int] = set()
        self.completed: set[int] = set()
        self._frozen = frozen
        self.notice: Callable[[int, str], None] = lambda node, text: None
        self._grid, self._end, self._patience = grid, time.monotonic() + timeout, patience
        self._next_look = 0.0
        nodes = {node.node_id: node for node in grid.get_nodes()}
        self._orders = {
            (node := message.metadata.dst_node_id): _Order(
                message, nodes[node].name if node in nodes else "", node
            )
            for message in messages
        }
        self._send()

    def __iter__(self) -> Iterator[tuple[int, Message]]:
        pause = _FIRST_POLL
        while self._orders and time.monotonic() < self._end:
            copies = {copy: node for node, o in self._orders.items() for copy in o.copies}
            arrived = list(self._grid.pull_messages(list(copies))) if copies else []
            idle = True
            while arrived:
                reply = arrived.pop(0)
                node = copies.get(reply.metadata.reply_to_message_id)
                if node is None or node not in self._orders:
                    continue  # another copy was answered
                if is_lost(reply):
                    self._lose(node, reply)
                    continue
                idle = False
                if self._complete(node, reply):
                    continue
                del self._orders[node]
                yield node, reply
            pause = min(1.5 * pause, _LAST_POLL) if idle else _FIRST_POLL
            self._send()
            if idle and self._orders:
                time.sleep(min(pause, max(0.0, self._end - time.monotonic())))
        if self._orders:
            connected = {node.node_id for node in self._grid.get_nodes()}
            self.absent |= set(self._orders) - connected

    def _complete(self, node: int, reply: Message) -> bool:
        """Let `_send` send the order with the frozen arrays if this reply says they are missing."""
        lacks = reply.has_error() and without_head(str(reply.error.reason)) == MISSING
        if self._frozen is None or not lacks or node in self.completed:
            return False
        self.completed.add(node)
        order = self._orders[node]
        order.message = with_frozen(order.message, self._frozen)
        order.copies, order.sent, order.lost = [], -inf, time.monotonic()
        self.notice(node, f"says {MISSING!r}; the server sends them")
        return True

    def _lose(self, node: int, reply: Message) -> None:
        """Note that a copy of a message is lost, or may be."""
        order, copy = self._orders[node], reply.metadata.reply_to_message_id
        gone, newest = is_unavailable(reply), copy == order.copies[-1]
        if not gone:  # this copy does not exist any more
            order.copies.remove(copy)
        if order.lost is None and (gone or newest):
            order.lost = time.monotonic()
            why = "is not connected" if gone else "sent an answer that was lost"
            self.notice(node, f"{why}; the server waits for it until the deadline")

    def _send(self) -> None:
        """Send every message that is not on its way and whose node is connected."""
        now = time.monotonic()
        if now < self._next_look and all(o.lost is None for o in self._orders.values()):
            return
        self._next_look = now + _AGAIN
        nodes = list(self._grid.get_nodes())
        by_id = {node.node_id: node for node in nodes}
        by_name = {node.name: node for node in nodes if node.name}
        sent: list[tuple[_Order, Message]] = []
        for key, order in list(self._orders.items()):
            node = by_id.get(key) or by_name.get(order.name)
            asked = node is None or order.sent > -inf
            if asked and order.lost is not None and now - order.lost >= self._patience:
                del self._orders[key]
                self.absent.add(key)
            elif node is not None and now - order.sent >= _AGAIN and order.waits_for(node):
                if order.sent > -inf:
                    self.notice(key, "is connected; the same order is sent again")
                sent.append((order, self._copy(order, node, now)))
        if sent:
            self._grid.push_messages([copy for _, copy in sent])
        for order, copy in sent:
            order.copies.append(copy.metadata.message_id)

    def _copy(self, order: _Order, node: NodeInfo, now: float) -> Message:
        """Return a copy of a message, which the caller sends to this node."""
        if node.node_id != order.node:  # the former node cannot answer any more
            order.node, order.copies = node.node_id, []
        order.activated, order.sent, order.lost = node.last_activated_at, now, None
        kind, left = order.message.metadata.message_type, max(_FIRST_POLL, self._end - now)
        return Message(order.message.content, order.node, kind, ttl=left)


def report_text(reply: Message) -> str:
    """Return the text of a report, of bounded length.

    Raises
    ------
    Refused
        The reply is an error, or the text is too long.
    KeyError
        The reply has no report.
    """
    if reply.has_error():
        raise Refused(reason(reply))
    text = str(reply.content.config_records["report"]["json"])
    if len(text) > LONGEST_REPORT:
        raise Refused(f"the report has {len(text)} characters")
    return text


def read_report(kind: type[R], reply: Message, card: SiteCard, number: int) -> R:
    """Read the report in a reply. Check its site, its round and its tasks.

    Raises
    ------
    Refused
    """
    try:
        report = kind.model_validate_json(report_text(reply))
    except (KeyError, ValidationError) as error:
        raise Refused("the reply holds no valid report") from error
    if (report.site, report.round) != (card.name, number):
        raise Refused(f"the report is of site {report.site[:64]}, round {report.round}")
    if unknown := report.tasks - set(card.tasks):
        raise Refused(f"the report names the task {min(unknown)[:64]!r}, which the site lacks")
    check_report(card, report)
    return report


def is_lost(reply: Message) -> bool:
    """Return True if Flower speaks in the stead of a site, whose answer may come later.

    The node is not connected, the message or its reply is gone, or the site's launcher did not
    answer the SuperNode.
    """
    return reply.has_error() and reply.error.code in (
        ErrorCode.MESSAGE_UNAVAILABLE,
        ErrorCode.REPLY_MESSAGE_UNAVAILABLE,
        ErrorCode.NODE_UNAVAILABLE,
        ErrorCode.CLIENT_APP_CRASHED,
    )


def is_unavailable(reply: Message) -> bool:
    """Return True if Flower reports that the node is not connected any more."""
    return reply.has_error() and reply.error.code == ErrorCode.NODE_UNAVAILABLE


def reason(reply: Message) -> str:
    """Return the text of an error reply as one short line: a site can write any text."""
    return shown(without_head(str(reply.error.reason)), 200)
