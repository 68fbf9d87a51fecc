"""Sealing a reply, after the audit log has described what it says."""

from __future__ import annotations

from flwr.app import Array, ArrayRecord, Message, RecordDict

from client.flower import content_bytes
from mdmt.sealing import KEY, RECORD, seal


def seal_reply(reply: Message, order: Message) -> Message:
    """Encrypt the whole content of a reply, if the order has a key for it.

    What lies in the server's database afterwards can be opened only with the private half of this
    key, which the server deletes. An error has no content and stays readable.

    Raises
    ------
    ValueError
        The order has an invalid key.
    """
    records = order.content.config_records
    if reply.has_error() or RECORD not in records:
        return reply
    key = records[RECORD].get(KEY)
    if not isinstance(key, bytes):
        raise ValueError("the key of the order is not bytes")
    sealed = seal(content_bytes(reply.content), key, order.metadata.message_type)
    array = Array("uint8", (len(sealed),), RECORD, sealed)
    reply.content = RecordDict({RECORD: ArrayRecord({RECORD: array})})
    return reply
