"""Orders are sent until they are answered: not longer than asked, not in a tight loop."""

from __future__ import annotations

import time

import pytest
from flwr.app import ConfigRecord, Error, Message, MessageType, RecordDict

from server import messaging
from server.flower import NodeInfo
from server.messaging import Replies, reason
from server.requests import deadline
from simulation.engine import task_identity


class Grid:
    """Nodes that answer as `script` says, once per copy of a message: a list for each node.

    An answer is the number of looks until it comes (None: never), or an error.
    After the script a node answers at once. A node in `away` is not listed.
    """

    def __init__(self, script, away=(), names=None):
        self.script = {node: list(answers) for node, answers in script.items()}
        self.away, self.names = set(away), names or {node: f"site-{node}" for node in script}
        self.activated = dict.fromkeys(script, "first")
        self.sent, self.answers = {}, {}
        self.on_look = lambda: None

    def get_nodes(self):
        self.on_look()
        return [
            NodeInfo(node_id=node, name=name, last_activated_at=self.activated.get(node, ""))
            for node, name in self.names.items()
            if node not in self.away
        ]

    def push_messages(self, messages):
        for message in messages:
            copy, node = str(len(self.sent)), message.metadata.dst_node_id
            message.metadata.__dict__["_message_id"] = copy
            self.sent[copy] = message
            waiting = self.script.get(node) or [0]
            self.answers[copy] = waiting.pop(0)

    def pull_messages(self, ids):
        return [reply for copy in ids if (reply := self.reply(copy)) is not None]

    def reply(self, copy):
        message, answer = self.sent[copy], self.answers[copy]
        if isinstance(answer, Error):
            self.answers[copy] = None
            return Message(answer, reply_to=message)
        if answer is None:
            return None
        self.answers[copy] = answer - 1
        if answer > 0:
            return None
        return Message(RecordDict({"of": ConfigRecord({"copy": copy})}), reply_to=message)

    def copies_to(self, node):
        return [m for m in self.sent.values() if m.metadata.dst_node_id == node]


GONE, CRASHED, EXPIRED = (Error(code, "Flower's words") for code in (5, 8, 4))


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(messaging, "_AGAIN", 0.05)
    with task_identity():
        yield


def order(node):
    return Message(
        RecordDict({"config": ConfigRecord({"order": f"for {node}"})}), node, "train", ttl=9
    )


def ask(grid, timeout=5.0, nodes=None, **options):
    found = Replies(grid, [order(node) for node in nodes or grid.script], timeout, **options)
    return found, dict(found)


def test_replies_are_known_by_the_node_that_was_asked_as_they_arrive():
    assert list(ask(Grid({7: [2], 8: [0], 9: [1]}))[1]) == [8, 9, 7]


def test_a_silent_node_is_waited_for_until_the_deadline_and_left_out():
    started = time.monotonic()
    found, answers = ask(Grid({7: [0], 8: [None]}), 0.3)
    assert set(answers) == {7}
    assert found.absent == set(), "it is connected"
    assert 0.3 <= time.monotonic() - started < 2


def test_the_error_of_a_site_is_its_reply():
    grid = Grid({7: [Error(2, "ValueError")]})
    assert ask(grid)[1][7].error.reason == "ValueError"
    assert len(grid.sent) == 1, "it is not asked again"


def test_nobody_asked_is_nobody_waited_for():
    assert ask(Grid({}), 60.0)[1] == {}


@pytest.mark.parametrize("code", [3, 4, 5, 8])
def test_what_flower_says_in_the_stead_of_a_site_is_no_reply_and_the_same_order_goes_again(code):
    grid = Grid({7: [0], 8: [Error(code, "lost"), 0]})
    found, answers = ask(grid)
    assert set(answers) == {7, 8}
    first, second = grid.copies_to(8)
    assert second.content is first.content
    assert second.metadata.message_type == first.metadata.message_type
    assert second.metadata.ttl < 5, "only until the deadline"
    assert found.absent == set()


def test_a_lost_node_gets_its_order_again_when_it_is_back_and_not_before():
    grid, looks = Grid({8: [GONE, 0]}), []
    grid.away = set()

    def come_back_at_the_fifth_look():
        looks.append(len(grid.sent))
        grid.away = {8} if grid.sent and len(looks) < 5 else set()

    grid.on_look = come_back_at_the_fifth_look
    assert set(ask(grid)[1]) == {8}
    assert looks[:5] == [0, 0, 1, 1, 1]
    assert len(grid.sent) == 2


def test_a_node_that_is_away_at_first_gets_its_order_when_it_comes():
    grid = Grid({7: [0], 8: [0]}, away={8})
    found = Replies(grid, [order(7), order(8)], 5.0)
    arriving = iter(found)
    assert next(arriving)[0] == 7
    assert grid.copies_to(8) == []
    grid.away.clear()
    assert [node for node, _ in arriving] == [8]


def test_a_node_that_stays_away_is_named_when_the_deadline_has_passed():
    started = time.monotonic()
    found, answers = ask(Grid({7: [0], 8: [GONE], 9: [None]}, away={8}), 0.3)
    assert set(answers) == {7}
    assert found.absent == {8}
    assert 0.3 <= time.monotonic() - started < 2


def test_without_patience_a_node_that_is_away_is_given_up_at_once():
    grid = Grid({7: [0], 8: [GONE]})
    found = Replies(grid, [order(7), order(8)], 60.0, patience=0.0)
    grid.away = {8}
    assert set(dict(found)) == {7}
    assert found.absent == {8}


def test_a_restarted_node_that_flower_never_missed_gets_its_order_again():
    """Its successor came between two polls: nobody said that the first copy is lost."""
    grid = Grid({8: [None, 0]})
    found = Replies(grid, [order(8)], 5.0)
    grid.activated[8] = "again"
    assert set(dict(found)) == {8}
    assert len(grid.sent) == 2


def test_the_same_site_with_a_new_node_gets_the_order_of_the_old_one():
    grid = Grid({8: [GONE]})
    found = Replies(grid, [order(8)], 5.0)
    grid.away, grid.names = {8}, {8: "ward", 80: "ward"}
    grid.names = {8: "site-8", 80: "site-8"}
    assert list(dict(found)) == [8], "the reply counts for the node that was asked"
    assert len(grid.copies_to(80)) == 1


def test_a_late_answer_to_the_first_copy_counts_once():
    """The link was cut while the site worked: it answers both copies."""
    grid = Grid({8: [GONE, None], 9: [6]})
    found = Replies(grid, [order(8), order(9)], 5.0)
    arriving, answers = iter(found), []
    found.notice = lambda node, text: grid.answers.update({"0": 0}) if "again" in text else None
    answers = [(node, reply.content["of"]["copy"]) for node, reply in arriving if node == 8]
    assert answers == [(8, "0")]
    assert len(grid.copies_to(8)) == 2


def test_nothing_is_sent_in_a_tight_loop_to_a_node_whose_answers_are_lost(monkeypatch):
    monkeypatch.setattr(messaging, "_AGAIN", 0.2)
    grid = Grid({8: [CRASHED] * 100})
    assert ask(grid, 0.7)[1] == {}
    assert 2 <= len(grid.sent) <= 4


def test_what_happens_to_an_order_is_told():
    grid, told = Grid({8: [GONE, EXPIRED, 0]}), []
    found = Replies(grid, [order(8)], 5.0)
    found.notice = lambda node, text: told.append((node, text.partition(";")[0]))
    assert set(dict(found)) == {8}
    assert told == [
        (8, "is not connected"),
        (8, "is connected"),
        (8, "sent an answer that was lost"),
        (8, "is connected"),
    ]


def test_the_text_of_an_error_is_one_short_line():
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
