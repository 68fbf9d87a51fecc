"""Waiting for replies: never longer than asked, never for ever."""

from __future__ import annotations

import time

import pytest
from flwr.app import Error, Message, MessageType, RecordDict

from server.messaging import deadline, reason, replies
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
        yield lambda looks, timeout: dict(
            replies(
                Grid(looks),
                [Message(RecordDict(), node, MessageType.TRAIN) for node in looks],
                timeout,
            )
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


def test_nobody_asked_is_nobody_waited_for(ask):
    assert ask({}, 60.0) == {}


def test_the_text_of_an_error_is_one_short_line():
    with task_identity():
        message = Message(RecordDict(), 7, MessageType.TRAIN)
        reply = Message(Error(2, "line\n" * 1000), reply_to=message)
    assert len(reason(reply)) <= 200
    assert "\n" not in reason(reply)


def test_the_sites_of_a_simulation_do_not_wait_at_each_others_expense(make_config, two_sites):
    """They share a machine, so they have the time of all together; a deployed site has its own."""
    training = {"rounds": 2, "round_timeout": 10}
    assert deadline(make_config(training=training), 6) == 10
    assert deadline(make_config(training=training, sites=two_sites), 6) == 60
    assert deadline(make_config(training=training), 6, rounds=2) == 20
