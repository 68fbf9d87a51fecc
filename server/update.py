"""Which reply of a site is an update that can be averaged, and why not."""

from __future__ import annotations

from typing import TypeVar

from flwr.app import Message
from pydantic import ValidationError

from mdmt.config import Encoding
from mdmt.deltas import decode
from mdmt.messages import EvaluateReport, SiteCard, TrainReport
from mdmt.wire import BLOB, Arrays, facts_of, inflate, most_bytes, unpack
from server.aggregation import refusal
from server.messaging import Refused, reason
from server.records import content_bytes

__all__ = ["decode_update", "read_report", "read_update"]

R = TypeVar("R", TrainReport, EvaluateReport)
LONGEST_REPORT = 2**20
"""Characters; one of ten tasks with a hundred metrics each has a twentieth of it."""
_TRAINING = "a training report with arrays"


def read_update(
    card: SiteCard, number: int, reply: Message, sent: Arrays, fingerprint: str, encoding: Encoding
) -> tuple[TrainReport, bytes]:
    """Check a reply to a training order.

    Parameters
    ----------
    card : SiteCard
        Of the site that was asked.
    number : int
        The round.
    reply : Message
    sent : mapping of str to ndarray
        The arrays that have to come back, as the site had them.
    fingerprint : str
        Of all arrays that the site then had; empty where it does not say which it had.
    encoding : {"float32", "float16", "int8"}

    Returns
    -------
    TrainReport
    bytes
        The update's blob, for `decode_update`.

    Raises
    ------
    Refused
    """
    if reply.has_error():
        raise Refused(reason(reply))
    # Size first: what is too large is never decoded, and never inflated.
    allowed = most_bytes(array.nbytes for array in sent.values())
    if (size := content_bytes(reply.content)) > allowed + LONGEST_REPORT:
        raise Refused(f"the update has {size} bytes, at most {allowed} are expected")
    try:
        record = reply.content.array_records["arrays"]
    except KeyError as error:
        raise Refused(f"the reply is not {_TRAINING}") from error
    report = read_report(TrainReport, reply, card, number, _TRAINING)
    try:
        blob = inflate(record[BLOB].data, allowed)
        if facts_of(blob).get("base", "") != fingerprint:
            raise Refused("the update is one to other arrays than were sent")
        arrays = decode_update(blob, sent, encoding)
    except KeyError as error:
        raise Refused("the arrays cannot be decoded") from error
    except ValueError as error:
        raise Refused(f"the arrays cannot be decoded: {error}") from error
    if unfit := refusal(arrays, sent):
        raise Refused(unfit)
    return report, blob


def read_report(kind: type[R], reply: Message, card: SiteCard, number: int, what: str) -> R:
    """The report in a reply, of the round that was asked for and the tasks that the site has.

    Raises
    ------
    Refused
        It is none; `what` should have come.
    """
    try:
        text = str(reply.content.config_records["report"]["json"])
        if len(text) > LONGEST_REPORT:
            raise Refused(f"the report has {len(text)} characters")
        report = kind.model_validate_json(text)
    except (KeyError, ValidationError) as error:
        raise Refused(f"the reply is not {what}") from error
    if (report.site, report.round) != (card.name, number):
        raise Refused(f"the report is of site {report.site[:64]}, round {report.round}")
    if strange := report.tasks - set(card.tasks):
        raise Refused(f"the report tells of the task {min(strange)[:64]!r}, which the site has not")
    return report


def decode_update(blob: bytes, sent: Arrays, encoding: Encoding) -> Arrays:
    """The arrays of a blob that `read_update` let pass."""
    return decode(unpack(blob), sent, encoding)
