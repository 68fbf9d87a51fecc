"""Replies pass sealed through Flower, and their keys are gone when they have arrived."""

from __future__ import annotations

import gc
import time

import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from flwr.app import Array, ArrayRecord, ConfigRecord, Error, Message, RecordDict

from client.deployment.sealing import seal_reply
from client.flower import content_bytes
from mdmt.blob import BLOB
from mdmt.messages import order_hash
from mdmt.sealing import KEY, RECORD, seal
from server.flower import ErrorCode, task_identity
from server.sealed_grid import SealedGrid
from simulation.engine import InProcessGrid

UPDATE = bytes(range(256)) * 4
REPORT = '{"site":"clinic","round":1,"validation":{"prognosis/auroc":0.75}}'


@pytest.fixture(autouse=True)
def _author():
    with task_identity():
        yield


def order(ttl=60.0):
    content = RecordDict({"config": ConfigRecord({"order": "{}"})})
    return Message(content, 2, "train", ttl=ttl)


def answer(message):
    """What a site answers, before it is sealed."""
    arrays = ArrayRecord({BLOB: Array("uint8", (len(UPDATE),), BLOB, UPDATE)})
    content = {"report": ConfigRecord({"json": REPORT, "n": 3}), "arrays": arrays}
    return Message(RecordDict(content), reply_to=message)


def grid_of(site):
    """A grid with one node that `site` answers for; everything that passed; the sealed grid."""
    passed = []

    def app(message, context):
        reply = site(message)
        passed.extend([message, reply])
        return reply

    return SealedGrid(InProcessGrid(app, {}, 2)), passed


def exchange(grid, message):
    grid.push_messages([message])
    (reply,) = grid.pull_messages([message.metadata.message_id])
    return reply


def test_a_reply_arrives_as_it_was_and_nothing_of_it_passes():
    grid, passed = grid_of(lambda message: seal_reply(answer(message), message))
    reply = exchange(grid, order())
    assert reply.content.array_records["arrays"][BLOB].data == UPDATE
    assert dict(reply.content.config_records["report"]) == {"json": REPORT, "n": 3}
    seen = b"".join(content_bytes(message.content) for message in passed)
    for secret in (UPDATE[:8], UPDATE[100:108], b"auroc", b"clinic", b"report"):
        assert secret not in seen


def test_the_identity_of_an_order_does_not_depend_on_its_key():
    grid, _ = grid_of(answer)
    first, again = order(), order()
    grid.push_messages([first, again])
    texts = [message.content.config_records["config"]["order"] for message in (first, again)]
    assert order_hash("train", texts[0]) == order_hash("train", texts[1])
    keys = {message.content.config_records[RECORD][KEY] for message in (first, again)}
    assert len(keys) == 2


def test_messages_that_share_a_content_have_different_keys():
    grid, _ = grid_of(lambda message: seal_reply(answer(message), message))
    content = order().content
    queries = [Message(content, node, "query", ttl=60.0) for node in (2, 3)]
    grid.push_messages(queries)
    for query in queries:
        (reply,) = grid.pull_messages([query.metadata.message_id])
        assert reply.has_content()
    assert RECORD not in content


def test_the_private_key_is_gone_when_the_reply_has_arrived(monkeypatch):
    def private_keys():
        gc.collect()
        return sum(isinstance(thing, X25519PrivateKey) for thing in gc.get_objects())

    grid, _ = grid_of(lambda message: seal_reply(answer(message), message))
    exchange(grid, order())
    assert grid._keys == {}
    assert private_keys() == 0
    grid.push_messages([order(ttl=5.0)])
    assert len(grid._keys) == 1
    now = time.monotonic()
    monkeypatch.setattr("time.monotonic", lambda: now + 6)
    grid.pull_messages([])
    assert grid._keys == {}, "nobody answered before the deadline"


@pytest.mark.parametrize(
    ("site", "says"),
    [
        (answer, "the reply is not sealed"),
        (lambda m: sealed_as(m, b"no content", "train"), "it is not the content of a message"),
        (lambda m: sealed_as(m, content_bytes(answer(m).content), "query"), "was changed"),
        (lambda m: tampered(m), "was changed"),
    ],
)
def test_a_reply_that_cannot_be_opened_is_an_error_by_the_site(site, says):
    grid, _ = grid_of(site)
    reply = exchange(grid, order())
    assert reply.has_error()
    assert says in reply.error.reason


def test_an_error_passes_as_it_is():
    grid, _ = grid_of(
        lambda message: seal_reply(Message(Error(2, "policy: no"), reply_to=message), message)
    )
    reply = exchange(grid, order())
    assert (reply.error.code, reply.error.reason) == (2, "policy: no")


def test_a_site_can_answer_after_flower_has_answered_in_its_stead():
    class TwoReplies:
        def push_messages(self, messages):
            (self.order,) = messages
            self.order.metadata.__dict__["_message_id"] = "1"
            gone = Message(Error(ErrorCode.NODE_UNAVAILABLE, "gone"), reply_to=self.order)
            self.replies = [gone, seal_reply(answer(self.order), self.order)]

        def pull_messages(self, ids):
            return [self.replies.pop(0)]

    grid = SealedGrid(TwoReplies())
    grid.push_messages([order()])
    first, second = (*grid.pull_messages(["1"]), *grid.pull_messages(["1"]))
    assert first.error.code == ErrorCode.NODE_UNAVAILABLE
    assert second.content.array_records["arrays"][BLOB].data == UPDATE


def test_without_a_key_a_reply_stays_readable():
    """A simulation sends none."""
    message = order()
    reply = seal_reply(answer(message), message)
    assert reply.content.array_records["arrays"][BLOB].data == UPDATE


@pytest.mark.parametrize("key", ["text", b"short", bytes(32)])
def test_an_order_with_an_invalid_key_is_not_answered_in_plain(key):
    message = order()
    message.content[RECORD] = ConfigRecord({KEY: key})
    with pytest.raises(ValueError):
        seal_reply(answer(message), message)


def sealed_as(message, content, kind):
    """A reply of a client that seals something else."""
    key = message.content.config_records[RECORD][KEY]
    sealed = seal(content, key, kind)
    array = Array("uint8", (len(sealed),), RECORD, sealed)
    return Message(RecordDict({RECORD: ArrayRecord({RECORD: array})}), reply_to=message)


def tampered(message):
    reply = seal_reply(answer(message), message)
    array = reply.content.array_records[RECORD][RECORD]
    array.data = array.data[:-1] + bytes([array.data[-1] ^ 1])
    return reply
