"""Asking sites, and collecting what comes back in time."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from typing import NamedTuple, TypeAlias, TypeVar

from flwr.app import Message
from flwr.serverapp import Grid

from mdmt.errors import Refused, RunError
from server.flower import ErrorCode

__all__ = [
    "Conversation",
    "Questions",
    "Refused",
    "arrivals",
    "away",
    "converse",
    "converse_with_each",
    "exchange",
    "lost",
    "reason",
]

_FIRST_POLL, _LAST_POLL = 0.05, 1.0
"""Seconds between two looks for replies: more while none come, as each look is a request."""
_AT_ONCE = 8
"""Conversations held at once: the server has a backbone in memory for each."""
T = TypeVar("T")
Again: TypeAlias = Callable[[int, Message], Message | None]
"""Given node and reply: what to ask instead of taking that reply, if anything."""


def _never(node: int, reply: Message) -> None:
    """Take every reply."""


def arrivals(
    grid: Grid, messages: Iterable[Message], timeout: float, again: Again = _never
) -> Iterator[tuple[int, Message]]:
    """Send `messages` and yield their replies as they arrive, each within `timeout` seconds.

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
        Asked before a reply is yielded.

    Yields
    ------
    int
        The node that was asked (an error reply does not name its sender itself).
    Message
        Its reply.
    """
    waiting: dict[str, tuple[int, float]] = {}

    def ask(*messages: Message) -> None:
        grid.push_messages(list(messages))
        end = time.monotonic() + timeout
        waiting.update({m.metadata.message_id: (m.metadata.dst_node_id, end) for m in messages})

    ask(*messages)
    pause = _FIRST_POLL
    while waiting:
        arrived = list(grid.pull_messages(list(waiting)))
        pause = _FIRST_POLL if arrived else min(1.5 * pause, _LAST_POLL)
        idle = not arrived
        while arrived:
            reply = arrived.pop(0)
            node, _ = waiting.pop(reply.metadata.reply_to_message_id, (None, 0.0))
            if node is None or lost(reply):
                continue
            if (question := again(node, reply)) is not None:
                ask(question)
            else:
                yield node, reply
        now = time.monotonic()
        for message_id in [m for m, (_, end) in waiting.items() if now >= end]:
            del waiting[message_id]
        if idle and waiting:
            time.sleep(min(pause, max(0.0, max(end for _, end in waiting.values()) - now)))


def exchange(grid: Grid, messages: Iterable[Message], timeout: float) -> dict[int, Message]:
    """Send `messages` and wait for their replies (`arrivals`).

    Returns
    -------
    dict of int to Message
        Replies by node; nodes that did not answer in time are absent.
    """
    return dict(arrivals(grid, messages, timeout))


class Questions(NamedTuple):
    """What a conversation asks: at most one message per node."""

    messages: list[Message]
    again: Again = _never


Conversation: TypeAlias = Generator[Questions, Iterator[tuple[int, Message]], T]
"""Yields questions, and is sent node and reply of each answer as `arrivals` yields them."""


def converse(grid: Grid, conversation: Conversation[T], timeout: float) -> T:
    """Hold a conversation to its end; give what it returns."""
    try:
        questions = next(conversation)
        while True:
            messages, again = questions
            questions = conversation.send(arrivals(grid, messages, timeout, again))
    except StopIteration as end:
        result: T = end.value
        return result


def converse_with_each(
    grid: Grid, conversations: Mapping[int, Conversation[T]], timeout: float
) -> dict[int, T | RunError]:
    """Hold a conversation with each of several nodes, some at once; none waits for another's reply.

    Parameters
    ----------
    grid : Grid
    conversations : mapping of int to Conversation
        Each asks its own node.
    timeout : float
        Seconds for which each reply is waited for.

    Returns
    -------
    dict
        Node → what its conversation returned, or the error it ended with.
    """
    results: dict[int, T | RunError] = {}
    asked: dict[int, Again] = {}
    to_begin = deque(conversations)

    def go_on(node: int, replies: Iterator[tuple[int, Message]] | None) -> Message | None:
        """The next question to a node; None when its conversation is over."""
        try:
            while True:
                # Beginning a generator takes a None, which its type does not know.
                questions = conversations[node].send(replies)  # type: ignore[arg-type]
                if questions.messages:
                    asked[node] = questions.again
                    return questions.messages[0]
                replies = iter(())  # the node is not there
        except StopIteration as end:
            results[node] = end.value
        except RunError as error:
            results[node] = error
        asked.pop(node, None)
        return None

    def begin() -> Message | None:
        """The first question of the next conversation that has one."""
        while to_begin:
            if (question := go_on(to_begin.popleft(), None)) is not None:
                return question
        return None

    def answered(node: int, reply: Message) -> Message | None:
        return asked[node](node, reply) or go_on(node, iter([(node, reply)])) or begin()

    while to_begin or asked:
        first = [question for _ in range(_AT_ONCE) if (question := begin()) is not None]
        for _ in arrivals(grid, first, timeout, answered):
            pass  # a conversation ended, and there is none to begin
        for node in list(asked):  # no answer came
            go_on(node, iter(()))
    return results


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
