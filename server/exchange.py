"""Sending one message to each of several sites and collecting what comes back in time."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator

from flwr.app import Message
from flwr.common.constant import ErrorCode
from flwr.serverapp import Grid

__all__ = ["Refused", "arrivals", "away", "exchange", "lost", "reason"]

_FIRST_POLL, _LAST_POLL = 0.05, 1.0
"""Seconds between two looks for replies: more while none come, as each look is a request."""


class Refused(Exception):
    """Why what a site answered cannot be used: a sentence for the history."""


def arrivals(
    grid: Grid,
    messages: Iterable[Message],
    timeout: float,
    again: Callable[[int, Message], Message | None] = lambda node, reply: None,
) -> Iterator[tuple[int, Message]]:
    """Send `messages` and yield their replies as they arrive, for at most `timeout` seconds.

    A reply that was yielded is not held here any more. But all replies that lie ready when Flower's
    own grid looks are in memory at once, each of them whole: it takes no part of a reply, and does
    not say how large one is.

    Parameters
    ----------
    grid : Grid
    messages : iterable of Message
        At most one per node.
    timeout : float
        Seconds.
    again : callable
        Given node and reply: what to ask the node instead of yielding its reply, if anything.

    Yields
    ------
    int
        The node that was asked (an error reply does not name its sender itself).
    Message
        Its reply.
    """
    waiting: dict[str, int] = {}

    def ask(*messages: Message) -> None:
        grid.push_messages(list(messages))
        waiting.update({m.metadata.message_id: m.metadata.dst_node_id for m in messages})

    ask(*messages)
    deadline = time.monotonic() + timeout
    pause = _FIRST_POLL
    while waiting:
        arrived = list(grid.pull_messages(list(waiting)))
        pause = _FIRST_POLL if arrived else min(1.5 * pause, _LAST_POLL)
        idle = not arrived
        while arrived:
            reply = arrived.pop(0)
            node = waiting.pop(reply.metadata.reply_to_message_id, None)
            if node is None or lost(reply):
                continue
            if (question := again(node, reply)) is not None:
                ask(question)
            else:
                yield node, reply
        if time.monotonic() >= deadline:
            return
        if idle:
            time.sleep(min(pause, max(0.0, deadline - time.monotonic())))


def exchange(grid: Grid, messages: Iterable[Message], timeout: float) -> dict[int, Message]:
    """Send `messages` and wait for their replies (`arrivals`).

    Returns
    -------
    dict of int to Message
        Replies by node; nodes that did not answer in time are absent.
    """
    return dict(arrivals(grid, messages, timeout))


def lost(reply: Message) -> bool:
    """Whether this is but what Flower says in place of a reply that came late, or not whole."""
    unavailable = (ErrorCode.MESSAGE_UNAVAILABLE, ErrorCode.REPLY_MESSAGE_UNAVAILABLE)
    return reply.has_error() and reply.error.code in unavailable


def away(reply: Message | None) -> bool:
    """Whether this is what Flower says of a node that is not connected any more."""
    error = reply.error if reply is not None and reply.has_error() else None
    return error is not None and error.code == ErrorCode.NODE_UNAVAILABLE


def reason(reply: Message) -> str:
    """What an error reply says, on one short line: a site may write anything there."""
    words = " ".join(str(reply.error.reason).split())
    return "".join(letter for letter in words if letter.isprintable())[:200]
