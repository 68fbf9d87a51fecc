"""Requests to sites, and the replies that arrive in time."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

from flwr.app import Array, ArrayRecord, ConfigRecord, Message, RecordDict
from flwr.serverapp import Grid
from pydantic import BaseModel, ValidationError

from mdmt.blob import BLOB
from mdmt.config import FederationConfig
from mdmt.errors import Refused
from mdmt.messages import EvaluateReport, ReferenceReport, SiteCard, TrainReport
from server.flower import ErrorCode

__all__ = [
    "LONGEST_REPORT",
    "deadline",
    "is_lost",
    "is_unavailable",
    "read_report",
    "reason",
    "replies",
    "request",
]

LONGEST_REPORT = 2**20
"""Characters. A report of ten tasks with a hundred metrics each has a twentieth of it."""
_FIRST_POLL, _LAST_POLL = 0.05, 1.0
"""Seconds between two polls; the pause grows while nothing arrives, as each poll is a request."""
R = TypeVar("R", TrainReport, EvaluateReport, ReferenceReport)


def request(kind: str, node: int, order: BaseModel, blob: bytes, timeout: float) -> Message:
    """Write a message that carries an order and arrays.

    Parameters
    ----------
    kind : str
        Flower's message type.
    node : int
    order : BaseModel
    blob : bytes
        As `Codec.broadcast` encodes arrays.
    timeout : float
        Seconds after which Flower drops the message.
    """
    content = RecordDict(
        {
            "arrays": ArrayRecord({BLOB: Array("uint8", (len(blob),), BLOB, blob)}),
            "config": ConfigRecord({"order": order.model_dump_json()}),
        }
    )
    return Message(content, node, kind, ttl=timeout)


def deadline(config: FederationConfig, requests: int, rounds: int = 1) -> float:
    """Seconds in which sites must answer.

    The sites of a simulation share one machine and wait for each other, so they get the time of
    all of them together; each one's own time is compared with `round_timeout` afterwards.
    """
    sharing = max(1, requests) if config.sites else 1
    return config.training.round_timeout * max(1, rounds) * sharing


def replies(
    grid: Grid, messages: Iterable[Message], timeout: float
) -> Iterator[tuple[int, Message]]:
    """Send messages; iterate over their replies as they arrive.

    A reply that was given is not held here any more. Flower's own grid holds all replies that are
    ready at a poll in memory at once.

    Parameters
    ----------
    grid : Grid
    messages : iterable of Message
        At most one per node.
    timeout : float
        Seconds.

    Returns
    -------
    iterator of (int, Message)
        The node that was asked (an error reply does not name its sender), and its reply.
    """
    messages = list(messages)
    grid.push_messages(messages)
    nodes = {m.metadata.message_id: m.metadata.dst_node_id for m in messages}
    return _arriving(grid, nodes, time.monotonic() + timeout)


def _arriving(grid: Grid, waiting: dict[str, int], end: float) -> Iterator[tuple[int, Message]]:
    pause = _FIRST_POLL
    while waiting and time.monotonic() < end:
        arrived = list(grid.pull_messages(list(waiting)))
        pause = _FIRST_POLL if arrived else min(1.5 * pause, _LAST_POLL)
        idle = not arrived
        while arrived:
            reply = arrived.pop(0)
            node = waiting.pop(reply.metadata.reply_to_message_id, None)
            if node is not None and not is_lost(reply):
                yield node, reply
        if idle and waiting:
            time.sleep(min(pause, max(0.0, end - time.monotonic())))


def read_report(kind: type[R], reply: Message, card: SiteCard, number: int) -> R:
    """Read the report in a reply: of the round that was asked for, and of the site's own tasks.

    Raises
    ------
    Refused
    """
    if reply.has_error():
        raise Refused(reason(reply))
    try:
        text = str(reply.content.config_records["report"]["json"])
        if len(text) > LONGEST_REPORT:
            raise Refused(f"the report has {len(text)} characters")
        report = kind.model_validate_json(text)
    except (KeyError, ValidationError) as error:
        raise Refused("the reply holds no valid report") from error
    if (report.site, report.round) != (card.name, number):
        raise Refused(f"the report is of site {report.site[:64]}, round {report.round}")
    if unknown := report.tasks - set(card.tasks):
        raise Refused(f"the report names the task {min(unknown)[:64]!r}, which the site lacks")
    return report


def is_lost(reply: Message) -> bool:
    """Whether Flower says that the reply came too late, or not whole."""
    unavailable = (ErrorCode.MESSAGE_UNAVAILABLE, ErrorCode.REPLY_MESSAGE_UNAVAILABLE)
    return reply.has_error() and reply.error.code in unavailable


def is_unavailable(reply: Message | None) -> bool:
    """Whether Flower says that the node is not connected any more."""
    error = reply.error if reply is not None and reply.has_error() else None
    return error is not None and error.code == ErrorCode.NODE_UNAVAILABLE


def reason(reply: Message) -> str:
    """Text of an error reply on one short line: a site may write anything into it."""
    words = " ".join(str(reply.error.reason).split())
    return "".join(letter for letter in words if letter.isprintable())[:200]
