"""Registration without data: which cards are refused, and that a bad one refuses its site alone."""

from __future__ import annotations

import json

import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Error, Message, RecordDict

from mdmt.errors import RegistrationError
from server.flower import NodeInfo
from server.registration import register_sites
from simulation.engine import task_identity

ESCAPE = "\x1b]0;owned\x07\x1b[31m"


@pytest.fixture(autouse=True)
def identity():
    with task_identity():
        yield


class Grid:
    """Nodes that answer a query with the next of their answers."""

    def __init__(self, answers, names=()):
        self.answers, self.sent = answers, {}
        self.nodes = [NodeInfo(node_id=i + 2) for i in range(len(answers))]
        for node, name in zip(self.nodes, names, strict=False):
            node.name = name

    def get_nodes(self):
        return self.nodes

    def push_messages(self, messages):
        for message in messages:
            number = str(len(self.sent))
            message.metadata.__dict__["_message_id"] = number
            self.sent[number] = message

    def pull_messages(self, ids):
        return [self.answer(self.sent[i]) for i in list(ids)]

    def answer(self, message):
        answer = self.answers[message.metadata.dst_node_id - 2]
        if isinstance(answer, Error):
            return Message(answer, reply_to=message)
        content = answer if isinstance(answer, RecordDict) else card_record(answer)
        return Message(content, reply_to=message)


def card_record(card):
    text = card if isinstance(card, str) else json.dumps(card)
    return RecordDict({"report": ConfigRecord({"json": text})})


@pytest.fixture
def config(make_config):
    return lambda **changes: make_config(
        aggregation={"join_timeout": 0.1} | changes, training={"rounds": 1, "round_timeout": 1}
    )


@pytest.fixture
def cards(make_card):
    """Function: configuration → the cards of a and b as JSON values."""

    def make(config):
        a = make_card(config, "a", prognosis=10)
        b = make_card(config, "b", severity=60)
        return [card.model_dump(mode="json") for card in (a, b)]

    return make


def register(config, answers, **options):
    events = []
    registry = register_sites(
        Grid(answers, options.pop("names", ())),
        config,
        lambda kind, **facts: events.append((kind, facts)),
        **options,
    )
    return registry, [(f["site"], f["reason"]) for kind, f in events if kind == "refused"], events


def changed(card, **changes):
    return card | changes


HOSTILE = {
    "no object": "7",
    "deep": "[" * 200_000,
    "long number": '{"protocol": ' + "9" * 5000 + "}",
    "large": lambda card: card | {"device": "x" * 2**20},
    "escape in the device": lambda card: card | {"device": f"cuda {ESCAPE}"},
    "escape of eight bits": lambda card: card | {"device": "\x9b31m"},
    "escape in the name": lambda card: card | {"name": f"c{ESCAPE}"},
    "escape in a version": lambda card: card | {"versions": {"torch": ESCAPE}},
    "text turned around": lambda card: card | {"device": "\u202eupc"},
    "many versions": lambda card: card | {"versions": {str(i): "1" for i in range(1000)}},
    "other label": lambda card: (
        card | {"histogram": {"prognosis": {"": {ESCAPE: 1}}}, "data": "1" * 16}
    ),
    "an unknown column": lambda card: card | {"histogram": {"prognosis": {"x": {"MILD": 1}}}},
    "other labels": lambda card: card | {"histogram": {"prognosis": {"": {"GOOD": 1}}}},
    "no counts": lambda card: card | {"counts": {}},
    "another split": lambda card: card | {"images": {"train": 1}},
    "kind as a list": lambda card: card | {"tasks": {"prognosis": {"kind": ["x"]}}},
    "kind unknown": lambda card: card | {"tasks": {"prognosis": {"kind": ESCAPE}}},
    "classes as a number": lambda card: (
        card | {"tasks": {"prognosis": {"kind": "classification", "classes": 5}}}
    ),
    "labels of another space": lambda card: (
        card | {"tasks": {"prognosis": {"kind": "classification", "classes": ["A", ESCAPE]}}}
    ),
    "too many labels": lambda card: card | {"counts": {"prognosis": splits(10**9)}},
    "infinitely many": lambda card: card | {"counts": {"prognosis": splits(10**30)}},
    "hidden images": lambda card: card | {"images": splits(None)},
    "hidden labels": lambda card: card | {"counts": {"prognosis": splits(None)}},
    "large histogram": lambda card: (
        card | {"histogram": {"prognosis": {"": {"MILD": 900, "SEVERE": 100}}}}
    ),
}


def splits(train):
    return {"train": train, "val": 0, "test": 0}


REASONS = {
    "large": "bytes; at most 1048576 are read",
    "too many labels": (
        "claims 1000000000 labels of the task prognosis in the train split, which has 10 images"
        " with 1 labels each"
    ),
    "labels of another space": r"disagrees on the task prognosis: classes is [A, ",
    "hidden images": "withholds how many training images it has",
    "hidden labels": "withholds how many labels of the task prognosis",
    "large histogram": "reports a histogram of 1000 images for the task prognosis, not 10",
    "an unknown column": "reports a histogram of other labels",
    "other labels": "reports a histogram of other labels",
    "other label": "did not send a valid site card",
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_a_bad_card_refuses_its_site_alone(config, cards, make_card, kind):
    federation = config()
    hostile, (a, b) = HOSTILE[kind], cards(federation)
    c = make_card(federation, "c", prognosis=10).model_dump(mode="json")
    registry, refused, _ = register(
        federation, [hostile(c) if callable(hostile) else hostile, a, b]
    )
    assert list(registry.sites) == ["a", "b"]
    ((site, reason),) = refused
    assert site in {"c", "node 2"}
    expected = "speaks protocol 0" if isinstance(hostile, str) else "did not send a valid site card"
    assert REASONS.get(kind, expected) in reason
    assert (site + reason).isprintable()
    assert len(reason) <= 500


def test_an_array_in_the_place_of_a_card_is_not_read(config, cards):
    federation = config()
    bomb = RecordDict({"x": ArrayRecord({"x": Array("uint8", (2**21,), "x", bytes(2**21))})})
    registry, refused, _ = register(federation, [*cards(federation), bomb])
    assert list(registry.sites) == ["a", "b"]
    assert "bytes; at most" in refused[0][1]


def test_the_text_of_an_error_is_escaped_and_bounded(config, cards):
    federation = config()
    error = Error(2, f"PolicyError {ESCAPE}" + "x" * 10_000)
    _, ((_, reason),), _ = register(federation, [*cards(federation), error])
    assert reason.startswith(r"PolicyError \x1b]0;owned\x07\x1b[31m")
    assert len(reason) <= 200


def test_the_second_site_with_a_name_is_refused(config, cards):
    federation = config()
    a, b = cards(federation)
    registry, refused, _ = register(federation, [a, b, a])
    assert refused == [("a", "has the name of another site")]
    assert [card.name for _, card in sorted(registry.cards.items())] == ["a", "b"]


def test_with_on_missing_stop_or_below_the_quorum_a_bad_card_ends_registration(config, cards):
    for options in ({"on_missing": "stop"}, {"min_sites": 3}):
        federation = config(**options)
        with pytest.raises(RegistrationError, match="node 4: did not send a valid site card"):
            register(federation, [*cards(federation), {"protocol": 2}])


def test_a_task_whose_only_site_is_refused_ends_registration_with_both_reasons(config, cards):
    federation = config()
    a, b = cards(federation)
    b["counts"]["severity"]["train"] = 10**9
    with pytest.raises(RegistrationError, match=r"b: claims 10.* no site has training labels of"):
        register(federation, [a, b])


def test_a_largest_weight_needs_enough_sites(config, cards):
    federation = config(max_weight=0.3)
    with pytest.raises(
        RegistrationError, match=r"2 sites answered, aggregation\.max_weight 0\.3 needs at least 4"
    ):
        register(federation, cards(federation))
    half = config(max_weight=0.5)
    assert len(register(half, cards(half))[0].sites) == 2


@pytest.mark.parametrize(
    ("algorithm", "needed"), [("median", 3), ({"name": "trimmed_mean", "trim": 2}, 5)]
)
def test_a_robust_rule_needs_enough_sites(make_config, cards, algorithm, needed):
    training = {"rounds": 1, "round_timeout": 1}
    options = {"join_timeout": 0.1}
    federation = make_config(algorithm=algorithm, aggregation=options, training=training)
    with pytest.raises(RegistrationError, match=f"2 sites answered, algorithm .* {needed}"):
        register(federation, cards(federation))


def test_a_site_withholds_its_counts_with_uniform_weights(config, cards):
    federation = config(weighting="uniform")
    a, b = cards(federation)
    a |= {"images": splits(None), "counts": {"prognosis": splits(None)}}
    assert list(register(federation, [a, b])[0].sites) == ["a", "b"]


def test_other_counts_for_the_same_data_are_refused_by_name(config, cards, make_card):
    """The label counts at registration decide the weights, so they must not grow afterwards."""
    federation = config()
    a, b = cards(federation)
    former = {"a": make_card(federation, "a", prognosis=3)}
    registry, refused, _ = register(federation, [a, b, a | {"name": "c"}], former=former)
    assert refused == [
        ("a", "reports other counts of the task prognosis than before, for the same data")
    ]
    assert list(registry.sites) == ["b", "c"]
    _, refused, events = register(federation, [a | {"data": "1" * 16}, b], former=former)
    assert not refused
    notices = [facts["message"] for kind, facts in events if kind == "notice"]
    assert notices == ["a has other data than when it registered before"]
    moved = former["a"].model_copy(update={"counts": {"prognosis": splits(10)}})
    moved = moved.model_copy(update={"images": {"train": 11, "val": 2, "test": 2}})
    _, refused, _ = register(federation, [a, b, a | {"name": "c"}], former={"a": moved})
    assert "other numbers of images" in refused[0][1]


def test_a_connected_site_whose_answer_is_lost_is_asked_again(make_config, cards):
    """A SuperNode that ends an earlier run can lose the answer to the query of the next one."""

    class Forgetful(Grid):
        def pull_messages(self, ids):
            return [m for m in super().pull_messages(ids) if m.metadata.reply_to_message_id != "0"]

    config = make_config(
        aggregation={"join_timeout": 5.0}, training={"rounds": 1, "round_timeout": 0.3}
    )
    grid = Forgetful(cards(config))
    registry = register_sites(grid, config, expected=["a", "b"])
    assert sorted(card.name for card in registry.cards.values()) == ["a", "b"]
    assert [m.metadata.dst_node_id for m in grid.sent.values()] == [2, 3, 2], "only the silent one"
