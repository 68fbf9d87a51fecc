"""Sending one message to each of several sites and collecting what comes back in time."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable

from flwr.app import Message
from flwr.common.constant import ErrorCode
from flwr.serverapp import Grid

__all__ = ["away", "exchange", "lost", "reason"]

_FIRST_POLL, _LAST_POLL = 0.05, 1.0
"""Seconds between two looks for replies: more while none come, as each look is a request."""


def exchange(
    grid: Grid,
    messages: Iterable[Message],
    timeout: float,
    on_reply: Callable[[int], None] = lambda node: None,
) -> dict[int, Message]:
    """Send `messages`, wait for their replies, at most `timeout` seconds.

    Parameters
    ----------
    grid : Grid
    messages : iterable of Message
        At most one per node.
    timeout : float
        Seconds.
    on_reply : callable
        Called with the node id as each reply arrives.

    Returns
    -------
    dict of int to Message
        Replies by the node that was asked (an error reply does not name its sender itself); nodes
        that did not answer in time are absent.
    """
    messages = list(messages)
    grid.push_messages(messages)
    waiting = {message.metadata.message_id: message.metadata.dst_node_id for message in messages}
    replies: dict[int, Message] = {}
    deadline = time.monotonic() + timeout
    pause = _FIRST_POLL
    while waiting:
        arrived = list(grid.pull_messages(list(waiting)))
        for reply in arrived:
            node = waiting.pop(reply.metadata.reply_to_message_id, None)
            if node is not None and not lost(reply):
                replies[node] = reply
                on_reply(node)
        if time.monotonic() >= deadline:
            break
        pause = _FIRST_POLL if arrived else min(1.5 * pause, _LAST_POLL)
        if not arrived:
            time.sleep(min(pause, max(0.0, deadline - time.monotonic())))
    return replies


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
    return " ".join(str(reply.error.reason).split())[:200]
