"""Which reply of a site is an update that can be averaged, and why not."""

from __future__ import annotations

from flwr.app import Message
from pydantic import ValidationError

from mdmt.config import Encoding
from mdmt.deltas import decode
from mdmt.messages import SiteCard, TrainReport
from mdmt.wire import BLOB, Arrays, facts_of, inflate, most_bytes, unpack
from server.aggregation import refusal
from server.exchange import reason

__all__ = ["Refused", "decode_update", "read_update"]


class Refused(Exception):
    """Why a site's reply cannot be used."""


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
    try:
        record = reply.content.array_records["arrays"]
        report = TrainReport.model_validate_json(
            str(reply.content.config_records["report"]["json"])
        )
    except (KeyError, ValidationError) as error:
        raise Refused("the reply is not a training report with arrays") from error
    if (report.site, report.round) != (card.name, number):
        raise Refused(f"the report is of site {report.site[:64]}, round {report.round}")
    # Size first: what is too large is never decoded, and never inflated.
    allowed = most_bytes(array.nbytes for array in sent.values())
    if (size := sum(len(array.data) for array in record.values())) > allowed:
        raise Refused(f"the update has {size} bytes, at most {allowed} are expected")
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


def decode_update(blob: bytes, sent: Arrays, encoding: Encoding) -> Arrays:
    """The arrays of a blob that `read_update` let pass."""
    return decode(unpack(blob), sent, encoding)
