"""Every strategy over two rounds, with averages worked out by hand; and what is refused."""

from __future__ import annotations

import json
import math
import zlib

import numpy as np
import pytest
from flwr.app import ConfigRecord, Error, Message, RecordDict
from numpy import float32

from mdmt.deltas import encode
from mdmt.errors import RunError
from mdmt.messages import TrainReport
from mdmt.metrics import weighted_mean_metrics
from mdmt.wire import BLOB, facts_of, inflate, pack, unpack
from server.optimiser import load_optimiser_arrays, optimiser_arrays
from server.records import blob_record, from_record, pack_record, to_record
from server.strategy import build_strategy
from simulation.engine import task_identity

W, RUNNING, HEAD = "backbone.w", "backbone.running_mean", "heads.severity.weight"


@pytest.fixture(autouse=True)
def identity():
    with task_identity():
        yield


@pytest.fixture
def federation(make_config, make_card):
    """A function: aggregation options → strategy for sites a (n = 25) and b (n = 75)."""

    def build(**aggregation):
        config = make_config(aggregation=aggregation)
        cards = {
            2: make_card(config, "a", prognosis=25),
            3: make_card(config, "b", prognosis=75),
        }
        return build_strategy(
            config,
            cards=cards,
            plain={RUNNING: float32([0])},
            travelling=frozenset({W, RUNNING}),
            write_order=lambda site, number: f"{site} {number}",
        )

    return build


def sent(message):
    return unpack(message.content.array_records["arrays"][BLOB].data)


def numbers(values):
    """float32, unless they are told to be something else."""
    return values if isinstance(values, np.ndarray) else float32(values)


def answer(message, site, number, arrays, **changes):
    report = {"site": site, "round": number, "validation": {}, "losses": {}, "images": 1}
    report |= {"steps": 1, "seconds": 0.0, "new_heads": False} | changes
    content = RecordDict(
        {
            "arrays": pack_record({k: numbers(v) for k, v in arrays.items()}),
            "report": ConfigRecord({"json": json.dumps(report)}),
        }
    )
    return Message(content, reply_to=message)


def play(strategy, number, w, updates, running=0.0):
    """One round from backbone `w`: what comes back from each site → the new backbone."""
    start = to_record({W: float32([w])})
    messages = list(strategy.configure_train(number, start, ConfigRecord(), None))
    for i, message in enumerate(messages):
        message.metadata.__dict__["_message_id"] = f"{number}-{i}"
    replies = [
        answer(message, site, number, {W: [value], RUNNING: [running]})
        for message, (site, value) in zip(messages, updates.items(), strict=True)
    ]
    record, _ = strategy.aggregate_train(number, replies)
    return from_record(record)[W].item()


def adam(start, m, v, mean, number, yogi=False):
    """Reddi et al. 2020, algorithm 2, with Flower's bias correction for Adam (round + 1)."""
    lr, b1, b2, tau = 0.1, 0.9, 0.99, 1e-3
    delta = mean - start
    m = b1 * m + (1 - b1) * delta
    if yogi:
        v = v - (1 - b2) * delta**2 * math.copysign(1, v - delta**2)
    else:
        v = b2 * v + (1 - b2) * delta**2
        lr = lr * math.sqrt(1 - b2 ** (number + 1)) / (1 - b1 ** (number + 1))
    return start + lr * m / (math.sqrt(v) + tau), m, v


def test_fedavg_two_rounds(federation):
    strategy = federation()
    # .25·2 + .75·4 = 3.5; then .25·4.5 + .75·2.5 = 3
    assert play(strategy, 1, 1.0, {"a": 2, "b": 4}) == 3.5
    assert play(strategy, 2, 3.5, {"a": 4.5, "b": 2.5}) == 3.0


def test_fedprox_averages_like_fedavg_and_tells_the_sites_mu(federation):
    strategy = federation(strategy={"name": "fedprox", "mu": 0.5})
    assert play(strategy, 1, 1.0, {"a": 2, "b": 4}) == 3.5
    assert play(strategy, 2, 3.5, {"a": 4.5, "b": 2.5}) == 3.0
    start = to_record({W: float32([1])})
    for message in strategy.configure_train(3, start, ConfigRecord(), None):
        assert message.content.config_records["config"]["proximal-mu"] == 0.5


def test_fedavgm_two_rounds(federation):
    strategy = federation(strategy={"name": "fedavgm", "lr": 1.0, "momentum": 0.5})
    # v = -2.5, w = 1 + 2.5; then v = .5·(-2.5) + (3.5 - 3) = -.75, w = 3.5 + .75
    assert play(strategy, 1, 1.0, {"a": 2, "b": 4}) == 3.5
    assert play(strategy, 2, 3.5, {"a": 4.5, "b": 2.5}) == 4.25


@pytest.mark.parametrize("name", ["fedadam", "fedyogi"])
def test_fedadam_and_fedyogi_two_rounds(federation, name):
    strategy = federation(
        strategy={"name": name, "lr": 0.1, "beta_1": 0.9, "beta_2": 0.99, "tau": 1e-3}
    )
    first, m, v = adam(1.0, 0.0, 0.0, 3.5, 1, yogi=name == "fedyogi")
    assert play(strategy, 1, 1.0, {"a": 2, "b": 4}) == pytest.approx(first, rel=1e-6)
    mean = 0.25 * 4.5 + 0.75 * 2.5
    second, _, _ = adam(float32(first), m, v, mean, 2, yogi=name == "fedyogi")
    result = play(strategy, 2, first, {"a": 4.5, "b": 2.5})
    assert result == pytest.approx(second, rel=1e-6)


@pytest.mark.parametrize("name", ["fedavg", "fedprox", "fedavgm", "fedadam", "fedyogi"])
def test_running_statistics_get_the_plain_mean_under_every_strategy(federation, name):
    strategy = federation(strategy=name)
    play(strategy, 1, 1.0, {"a": 2, "b": 4}, running=7.0)
    assert strategy.plain[RUNNING].tolist() == [7.0]
    play(strategy, 2, 1.0, {"a": 2, "b": 4}, running=0.5)
    assert strategy.plain[RUNNING].tolist() == [0.5]


@pytest.mark.parametrize("name", ["fedavgm", "fedadam", "fedyogi"])
def test_a_server_optimiser_goes_on_from_its_saved_state(federation, name):
    whole, first, second = (federation(strategy=name) for _ in range(3))
    w = play(whole, 1, 1.0, {"a": 2, "b": 4})
    assert play(first, 1, 1.0, {"a": 2, "b": 4}) == w
    load_optimiser_arrays(second, optimiser_arrays(first, [W]), [W])
    later = {"a": 4.5, "b": 2.5}
    assert play(second, 2, w, later) == play(whole, 2, w, later)


def test_a_shared_head_is_averaged_over_the_sites_of_its_task_only(make_config, make_card):
    config = make_config(aggregation={"heads": "shared"})
    cards = {
        2: make_card(config, "a", severity=30),
        3: make_card(config, "b", severity=10),
        4: make_card(config, "c", prognosis=1000),
    }
    strategy = build_strategy(
        config,
        cards=cards,
        plain={HEAD: float32([0])},
        travelling=frozenset({W, HEAD}),
        write_order=lambda site, number: "",
    )
    messages = list(strategy.configure_train(1, to_record({W: float32([0])}), ConfigRecord(), None))
    assert [HEAD in sent(m) for m in messages] == [True, True, False]
    updates = {"a": {W: [0], HEAD: [4]}, "b": {W: [0], HEAD: [8]}, "c": {W: [8]}}
    for i, message in enumerate(messages):
        message.metadata.__dict__["_message_id"] = str(i)
    replies = [answer(m, s, 1, u) for m, (s, u) in zip(messages, updates.items(), strict=True)]
    record, _ = strategy.aggregate_train(1, replies)
    assert strategy.plain[HEAD].tolist() == [5.0]  # (30·4 + 10·8) / 40
    assert from_record(record)[W].tolist() == [4.0]  # both tasks weigh one half


def reply_of_b(kind, message):
    good = {W: [4], RUNNING: [0]}
    if kind == "silent":
        return []
    if kind == "error":
        return [Message(Error(2, "DataError at the site; its own log says more"), reply_to=message)]
    if kind == "empty":
        return [Message(RecordDict(), reply_to=message)]
    arrays = {
        "nan": good | {W: [math.nan]},
        "extra key": good | {"heads.prognosis.weight": [1]},
        "missing key": {W: [4]},
        "shape": good | {W: [4, 4]},
        "dtype": good | {W: np.float64([4])},
        "huge": good | {W: np.zeros(100_000)},
    }.get(kind, good)
    site = "a" if kind == "wrong name" else "b"
    number = 7 if kind == "wrong round" else 1
    told = {"negative": {"prognosis/examples": -8}, "foreign task": {"severity/mae": 1.0}}
    reply = answer(message, site, number, arrays, validation=told.get(kind, {}))
    if kind == "long":
        report = reply.content.config_records["report"]
        report["json"] = str(report["json"]) + " " * 2**20
    if kind == "stowaway":
        reply.content.config_records["more"] = ConfigRecord({"bytes": bytes(2**21)})
    if kind == "garbage":
        reply.content.array_records["arrays"][BLOB].data = b"not an array"
    if kind == "unnamed":
        record = reply.content.array_records["arrays"]
        record["pickle"] = record.pop(BLOB)
    return [reply]


REASONS = {
    "silent": "no answer within",
    "error": "DataError at the site",
    "empty": "not a training report",
    "nan": f"array {W} is not finite",
    "extra key": "array heads.prognosis.weight was not asked for",
    "missing key": f"array {RUNNING} is missing",
    "shape": f"array {W} is float32 [2]",
    "dtype": f"array {W} is float64 [1]",
    "huge": "bytes, at most",
    "negative": "not a training report",
    "foreign task": "the report tells of the task 'severity', which the site has not",
    "long": "characters",
    "stowaway": "bytes, at most",
    "garbage": "cannot be decoded",
    "unnamed": "cannot be decoded",
    "wrong name": "the report is of site a",
    "wrong round": "round 7",
}


@pytest.mark.parametrize("kind", REASONS)
def test_an_unusable_answer_is_left_out_by_name_and_the_others_go_on(federation, kind):
    strategy = federation()
    result, round_ = attempt(strategy, kind)
    assert result == 2.0  # a alone
    assert list(round_.refusals) == ["b"]
    assert REASONS[kind] in round_.refusals["b"]


def attempt(strategy, kind):
    start = to_record({W: float32([1])})
    messages = list(strategy.configure_train(1, start, ConfigRecord(), None))
    for i, message in enumerate(messages):
        message.metadata.__dict__["_message_id"] = str(i)
    replies = [answer(messages[0], "a", 1, {W: [2], RUNNING: [0]}), *reply_of_b(kind, messages[1])]
    record, _ = strategy.aggregate_train(1, replies)
    return from_record(record)[W].item(), strategy.round


BIG = "backbone.big"
START = np.random.default_rng(0).normal(size=(16, 64)).astype(float32)


@pytest.fixture
def lossy(make_config, make_card):
    """A strategy for sites a and b that asks for int8; and its first round's messages."""
    config = make_config(wire={"up": "int8", "down": "int8"})
    cards = {2: make_card(config, "a", prognosis=25), 3: make_card(config, "b", prognosis=75)}
    strategy = build_strategy(
        config,
        cards=cards,
        plain={},
        travelling=frozenset({BIG}),
        write_order=lambda site, number: f"{site} {number}",
    )
    return strategy, begin(strategy, 1, START)


def begin(strategy, number, start):
    messages = strategy.configure_train(number, to_record({BIG: start}), ConfigRecord(), None)
    for i, message in enumerate(messages):
        message.metadata.__dict__["_message_id"] = f"{number}-{i}"
    return list(messages)


def encoded(message, site, number, array, **changes):
    """A site's answer in int8; `changes` replace what it tells or the arrays it sends."""
    blob = message.content.array_records["arrays"][BLOB].data
    facts = facts_of(inflate(blob, 10**6))
    held = changes.pop("held", START)
    travels, _ = encode({BIG: array}, {BIG: held}, "int8")
    reply = answer(message, site, number, {})
    base = changes.pop("base", facts["fingerprint"])
    blob = changes.pop("blob", None) or pack(travels | changes, base=base)
    reply.content["arrays"] = blob_record(blob)
    return reply


SCALE = f"{BIG}:scale"
HOSTILE = {
    "a bomb": ({"blob": b"mdmt-zip\1" + zlib.compress(bytes(10**7))}, "more than the"),
    "half a blob": ({"blob": b"mdmt-zip\1" + zlib.compress(bytes(100))[:-5]}, "damaged"),
    "no scale": ({SCALE: np.zeros(0, float32)}, "no scale for each row"),
    "NaN scale": ({SCALE: np.full(16, np.nan, float32)}, "a scale that is none"),
    "negative scale": ({SCALE: np.full(16, -1, float32)}, "a scale that is none"),
    "absurd scale": ({SCALE: np.full(16, 1e30, float32)}, "no weight is"),
    "another shape": ({BIG: np.zeros((16, 65), np.int8)}, "a delta to nothing"),
    "one array more": ({"backbone.more": np.zeros(4, float32)}, "was not asked for"),
    "another base": ({"base": "0" * 64}, "to other arrays than were sent"),
    "no base": ({"base": ""}, "to other arrays than were sent"),
    "float16": ({BIG: np.zeros((16, 64), np.float16)}, "float16 [16, 64], not float32"),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_a_hostile_delta_is_refused_and_the_others_go_on(lossy, kind):
    strategy, messages = lossy
    changes, reason = HOSTILE[kind]
    replies = [
        encoded(messages[0], "a", 1, START + 1),
        encoded(messages[1], "b", 1, START + 1, **changes),
    ]
    record, _ = strategy.aggregate_train(1, replies)
    assert list(strategy.round.refusals) == ["b"]
    assert reason in strategy.round.refusals["b"]
    assert np.allclose(from_record(record)[BIG], START + 1, atol=1e-5)
    assert "b" not in strategy.downlink.confirmed


def test_what_the_way_down_has_not_told_yet_is_not_lost(lossy):
    """The mean of updates to what sites hold, plus what they do not hold yet, is the backbone.

    Sites change nothing here, so the backbone must stay, though they never hold all of it.
    """
    strategy, messages = lossy
    new = (START + np.random.default_rng(1).normal(size=START.shape)).astype(float32)
    new[:, 0] = 1000  # so that int8 is coarse for the rest
    replies = [encoded(m, site, 1, START) for m, site in zip(messages, "ab", strict=True)]
    strategy.aggregate_train(1, replies)
    off = []
    for number in range(2, 6):
        messages = begin(strategy, number, new)
        held = strategy.downlink.held[BIG]
        off.append(float(np.abs(held - new)[:, 1:].max()))
        replies = [
            encoded(m, site, number, held, held=held)
            for m, site in zip(messages, "ab", strict=True)
        ]
        record, _ = strategy.aggregate_train(number, replies)
        assert strategy.round.refusals == {}
        assert np.allclose(from_record(record)[BIG], new, atol=1e-6)
    assert off[0] > 1, "half of a scale of 1000 / 127"
    assert off[1] < 0.02, "the next delta is only what the first one lost"


def test_below_the_quorum_the_run_fails_and_says_why(federation):
    with pytest.raises(
        RunError, match=r"1 updates could be used, 2 are needed \(b: array .* finite"
    ):
        attempt(federation(min_sites=2), "nan")


def test_on_missing_stop_fails_at_the_first_absence(federation):
    with pytest.raises(RunError, match=r"aggregation\.on_missing"):
        attempt(federation(on_missing="stop"), "silent")


def test_sites_are_drawn_by_seed_and_round_not_by_node_order(make_config, make_card):
    config = make_config(aggregation={"fraction": 0.5})
    names = [f"site-{i}" for i in range(8)]

    def drawn(nodes, number):
        cards = {
            n: make_card(config, name, prognosis=1) for n, name in zip(nodes, names, strict=True)
        }
        strategy = build_strategy(config, cards=cards)
        return [card.name for card in strategy._draw(number).values()]

    forwards, backwards = range(8), range(100, 92, -1)
    assert drawn(forwards, 1) == drawn(backwards, 1)
    assert len(drawn(forwards, 1)) == 4
    assert len({tuple(drawn(forwards, number)) for number in range(1, 6)}) > 1


def test_odd_metrics_of_one_site_are_refused_not_averaged():
    """A hostile report must not end the run: names have the form task/metric, support may lack."""
    report = {"site": "b", "round": 1, "losses": {}, "images": 1, "steps": 1}
    report |= {"seconds": 0.0, "new_heads": False}
    for name in ("no-slash", "a/b/c", "task/\nname", "x" * 200 + "/mae"):
        with pytest.raises(ValueError, match="validation"):
            TrainReport.model_validate(report | {"validation": {name: 1.0}})
    for key, value in {"examples": -8, "mae": 1e308, "auroc": 10**400}.items():
        with pytest.raises(ValueError, match="than or equal"):
            TrainReport.model_validate(report | {"validation": {f"t/{key}": value}})
    with pytest.raises(ValueError, match="integer"):
        TrainReport.model_validate(report | {"validation": {"t/examples": 2.5}})
    with pytest.raises(ValueError, match="finite"):
        TrainReport.model_validate(report | {"validation": {"t/mae": math.inf}})
    assert weighted_mean_metrics({"a": {"t/mae": 1.0}, "b": {"t/mae": 2.0, "t/examples": 4}}) == {
        "t/mae": 2.0,
        "t/examples": 4,
    }
