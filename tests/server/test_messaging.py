"""Waiting for replies: never longer than asked, never for ever."""

from __future__ import annotations

import time

import pytest
from flwr.app import Error, Message, MessageType, RecordDict

from mdmt.errors import RunError
from server.messaging import Questions, arrivals, converse_with_each, exchange, reason
from simulation.engine import task_identity


class Grid:
    """Nodes that answer after so many looks; None never answers, an error is answered at once."""

    def __init__(self, looks):
        self.looks = dict(looks)
        self.asked = {}

    def push_messages(self, messages):
        for number, message in enumerate(messages, start=len(self.asked)):
            message.metadata.__dict__["_message_id"] = str(number)
            self.asked[str(number)] = message

    def pull_messages(self, ids):
        arrived = []
        for message_id in list(ids):
            message = self.asked[message_id]
            node = message.metadata.dst_node_id
            if self.looks[node] is None:
                continue
            if isinstance(self.looks[node], Error):
                arrived.append(Message(self.looks[node], reply_to=message))
                continue
            self.looks[node] -= 1
            if self.looks[node] < 0:
                arrived.append(Message(RecordDict(), reply_to=message))
        return arrived


@pytest.fixture
def ask():
    with task_identity():
        yield lambda looks, timeout: exchange(
            Grid(looks),
            [Message(RecordDict(), node, MessageType.TRAIN) for node in looks],
            timeout,
        )


def test_replies_are_known_by_the_node_that_was_asked_as_they_arrive(ask):
    assert list(ask({7: 2, 8: 0, 9: 1}, 5.0)) == [8, 9, 7]


def test_a_silent_node_is_waited_for_until_the_deadline_and_left_out(ask):
    started = time.monotonic()
    assert set(ask({7: 0, 8: None}, 0.3)) == {7}
    assert 0.3 <= time.monotonic() - started < 2


@pytest.mark.parametrize("code", [3, 4])
def test_what_flower_says_of_a_message_that_expired_is_no_reply(ask, code):
    assert set(ask({7: 0, 8: Error(code, "may have expired")}, 5.0)) == {7}


def test_the_error_of_a_site_is_its_reply(ask):
    assert ask({7: Error(2, "ValueError")}, 5.0)[7].error.reason == "ValueError"


def test_a_node_can_be_asked_again_before_its_reply_counts():
    """As often as somebody wants to know, in the time there is."""
    questions = [None] * 2

    def again(node, reply):
        if node == 7 and questions:
            questions.pop()
            return Message(RecordDict(), node, MessageType.TRAIN)
        return None

    with task_identity():
        messages = [Message(RecordDict(), node, MessageType.TRAIN) for node in (7, 8)]
        nodes = [node for node, _ in arrivals(Grid({7: 0, 8: 0}), messages, 5.0, again)]
    assert nodes == [8, 7]
    assert questions == []


def rounds(node, number, seen):
    """A conversation of so many questions; it fails when one stays without an answer."""
    for question in range(number):
        replies = yield Questions([Message(RecordDict(), node, MessageType.TRAIN)])
        if node not in dict(replies):
            raise RunError(f"{node} did not answer")
        seen.append((node, question))
    return f"{node} is done"


@pytest.fixture
def talk():
    def hold(conversations, looks, timeout=5.0):
        return converse_with_each(Grid(looks), conversations, timeout)

    with task_identity():
        yield hold


def test_each_node_goes_on_at_its_own_pace(talk):
    seen = []
    found = talk({7: rounds(7, 1, seen), 8: rounds(8, 2, seen)}, {7: 3, 8: 0})
    assert found == {7: "7 is done", 8: "8 is done"}
    assert seen == [(8, 0), (8, 1), (7, 0)]


def test_a_silent_node_ends_its_own_conversation_alone(talk):
    seen = []
    found = talk({7: rounds(7, 3, seen), 8: rounds(8, 2, seen)}, {7: None, 8: 0}, timeout=0.3)
    assert isinstance(found.pop(7), RunError)
    assert found == {8: "8 is done"}


def test_a_node_that_is_not_there_is_not_waited_for(talk):
    def absent():
        replies = yield Questions([])
        return list(replies)

    assert talk({7: absent(), 8: rounds(8, 1, [])}, {8: 0}, 60.0) == {7: [], 8: "8 is done"}


def test_all_come_to_their_turn_and_no_more_than_eight_at_once(talk):
    begun, ended, most = [], [], []

    def conversation(node):
        begun.append(node)
        most.append(len(begun) - len(ended))
        yield from rounds(node, 2, [])
        ended.append(node)
        return node

    nodes = range(20)
    silent = {3: None, 4: None}
    found = talk({n: conversation(n) for n in nodes}, dict.fromkeys(nodes, 0) | silent, 0.3)
    assert {node for node, result in found.items() if isinstance(result, RunError)} == {3, 4}
    assert sorted(ended) == [node for node in nodes if node not in silent]
    assert max(most) == 8


def test_a_conversation_may_ask_its_node_again(talk):
    def conversation():
        once = [Message(RecordDict(), 7, MessageType.TRAIN)]
        first = Message(RecordDict(), 7, MessageType.TRAIN)
        replies = yield Questions([first], lambda node, reply: once.pop() if once else None)
        ((_, reply),) = replies
        return reply.metadata.reply_to_message_id

    assert talk({7: conversation()}, {7: 0}) == {7: "1"}


def test_nobody_asked_is_nobody_waited_for(ask):
    assert ask({}, 60.0) == {}


def test_the_text_of_an_error_is_one_short_line():
    with task_identity():
        message = Message(RecordDict(), 7, MessageType.TRAIN)
        reply = Message(Error(2, "line\n" * 1000), reply_to=message)
    assert len(reason(reply)) <= 200
    assert "\n" not in reason(reply)
