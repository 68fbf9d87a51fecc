"""Send requests to sites, and receive the replies that arrive in time."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

from flwr.app import Array, ArrayRecord, ConfigRecord, Message, RecordDict
from flwr.serverapp import Grid
from pydantic import BaseModel, ValidationError

from mdmt.audit_head import without_head
from mdmt.blob import BLOB
from mdmt.config import FederationConfig
from mdmt.errors import Refused
from mdmt.messages import EvaluateReport, ReferenceReport, SiteCard, TrainReport
from server.flower import ErrorCode

LONGEST_REPORT = 2**20
"""Largest report in characters. Ten tasks with a hundred metrics each need a twentieth of it."""
_FIRST_POLL, _LAST_POLL = 0.05, 1.0
"""Seconds between two polls. The pause grows while nothing arrives: each poll is a request."""
R = TypeVar("R", TrainReport, EvaluateReport, ReferenceReport)


def request(kind: str, node: int, order: BaseModel, blob: bytes, timeout: float) -> Message:
    """Create a message with an order and arrays.

    Parameters
    ----------
    kind : str
        Message type of Flower.
    node : int
    order : BaseModel
    blob : bytes
        Arrays, encoded by `Codec.broadcast`.
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
    """Return the seconds in which sites must answer.

    The sites of a simulation share one machine and wait for each other. So the deadline is the sum
    of their times, and the own time of each site is compared with `round_timeout` afterwards.
    """
    sharing = max(1, requests) if config.sites else 1
    return config.training.round_timeout * max(1, rounds) * sharing


def replies(
    grid: Grid, messages: Iterable[Message], timeout: float
) -> Iterator[tuple[int, Message]]:
    """Send messages, and iterate over their replies as they arrive.

    This function does not keep a reply that it has yielded. Flower's own grid returns all replies
    that are ready at a poll, so these are in memory together.

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
        The node of the request (an error reply has no sender), and the reply.
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
    """Read the report in a reply. Check its site, its round and its tasks.

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
    """Return True if Flower reports that the reply was late or incomplete."""
    unavailable = (ErrorCode.MESSAGE_UNAVAILABLE, ErrorCode.REPLY_MESSAGE_UNAVAILABLE)
    return reply.has_error() and reply.error.code in unavailable


def is_unavailable(reply: Message | None) -> bool:
    """Return True if Flower reports that the node is not connected any more."""
    error = reply.error if reply is not None and reply.has_error() else None
    return error is not None and error.code == ErrorCode.NODE_UNAVAILABLE


def reason(reply: Message) -> str:
    """Return the text of an error reply as one short line: a site can write any text."""
    words = " ".join(without_head(str(reply.error.reason)).split())
    return "".join(letter for letter in words if letter.isprintable())[:200]
