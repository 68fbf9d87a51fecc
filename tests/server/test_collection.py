"""One round at the server without data: what is sent, what is refused, what is combined."""

from __future__ import annotations

import json
import math
import time

import numpy as np
import pytest
from flwr.app import ConfigRecord, Error, Message, RecordDict
from numpy import float32

from mdmt.algorithms import State
from mdmt.blob import BLOB, pack, unpack
from mdmt.errors import RunError
from mdmt.messages import TrainReport
from mdmt.metrics import weighted_mean_metrics
from mdmt.selection import Selection
from mdmt.weighting import loss_coefficients
from mdmt.wire import Codec
from server import messaging
from server.collection import collect, send
from server.federation import Federation
from server.flower import NodeInfo
from server.rounds import bound_updates, check_quorum, combine, history_line, select
from server.site_registry import SiteRegistry
from server.update_buffer import UpdateBuffer
from simulation.engine import task_identity

W, RUNNING, HEAD = "backbone.w", "backbone.running_mean", "heads.severity.weight"
START = {W: float32([1]), RUNNING: float32([0])}


@pytest.fixture(autouse=True)
def identity():
    with task_identity():
        yield


class Grid:
    """Nodes that answer at once with what `answer` makes of a message, or not at all."""

    def __init__(self, answer, nodes):
        self.answer, self.nodes, self.sent = answer, nodes, {}

    def get_nodes(self):
        return [NodeInfo(node_id=node) for node in self.nodes]

    def push_messages(self, messages):
        for number, message in enumerate(messages, len(self.sent)):
            message.metadata.__dict__["_message_id"] = str(number)
            self.sent[str(number)] = message

    def pull_messages(self, ids):
        return [r for i in list(ids) if (r := self.answer(self.sent[i])) is not None]


class Run:
    """A run directory that writes nothing."""

    def __init__(self, folder):
        self.folder = folder

    def event(self, kind, **facts):
        pass


def make_federation(config, cards, arrays, absent=()):
    registry = SiteRegistry(None, config, lambda kind, **facts: None)
    registry.cards = dict(enumerate(cards, start=2))
    registry.connected = set(registry.cards) - set(absent)
    return Federation(
        config=config,
        registry=registry,
        recipe=config.recipe,
        run_id="0" * 12,
        state=State(arrays, optimised=(W,)),
        uploaded=frozenset(arrays),
        selection=Selection(config),
        coefficients=loss_coefficients(config, registry.sites),
    )


@pytest.fixture
def federation(make_config, make_card):
    """A function: configuration → federation of sites a (n = 25) and b (n = 75)."""

    def build(arrays=START, absent=(), **changes):
        config = make_config(training={"rounds": 2, "round_timeout": 0.2}, **changes)
        cards = [make_card(config, "a", prognosis=25), make_card(config, "b", prognosis=75)]
        return make_federation(config, cards, arrays, absent)

    return build


def play(federation, answer, tmp_path, number=1):
    """One round; `answer` is called with site and message. The state, and the history line."""
    names = {node: card.name for node, card in federation.registry.cards.items()}
    nodes = federation.registry.connected
    grid = Grid(lambda message: answer(names[message.metadata.dst_node_id], message), nodes)
    codec, run = Codec(federation.config.wire), Run(tmp_path)
    with UpdateBuffer(tmp_path) as buffer:
        sent = send(grid, federation, codec, number, select(federation, number))
        found = collect(federation, run, codec, sent, buffer)
        federation.norms = bound_updates(federation, run, number, found)
        check_quorum(federation, number, found)
        state = combine(federation, codec, sent, found, buffer)
    return state, history_line(federation, number, sent, found, 0.0)


def reply(message, site, arrays, number=1, blob=None, **changes):
    report = {"site": site, "round": number, "validation": {}, "losses": {}, "images": 1}
    report |= {"steps": 1, "seconds": 0.0, "new_memory": False} | changes
    blob = pack({k: np.asarray(v, float32) for k, v in arrays.items()}) if blob is None else blob
    from flwr.app import Array, ArrayRecord

    content = {
        "arrays": ArrayRecord({BLOB: Array("uint8", (len(blob),), BLOB, blob)}),
        "report": ConfigRecord({"json": json.dumps(report)}),
    }
    return Message(RecordDict(content), reply_to=message)


def test_a_round_is_the_weighted_mean(federation, tmp_path):
    values = {"a": 2.0, "b": 4.0}
    state, line = play(
        federation(), lambda s, m: reply(m, s, {W: [values[s]], RUNNING: [0]}), tmp_path
    )
    assert state.arrays[W].tolist() == [3.5]  # .25·2 + .75·4
    assert {s: facts["weight"] for s, facts in line["sites"].items()} == {"a": 0.25, "b": 0.75}
    assert line["cosines"] == {"a": {"b": 1.0}}  # both moved w up


def test_the_run_directory_keeps_the_head_that_a_reply_carries(federation, tmp_path, monkeypatch):
    events = []
    monkeypatch.setattr(Run, "event", lambda self, kind, **facts: events.append((kind, facts)))

    def answer(site, message):
        if site == "b":  # Flower answers in its stead
            return Message(Error(2, "the process is gone"), reply_to=message)
        good = reply(message, site, {W: [2.0], RUNNING: [0]})
        good.content["audit"] = ConfigRecord({"head": "ab" * 32})
        return good

    play(federation(), answer, tmp_path)
    heads = {facts["site"]: facts["head"] for kind, facts in events if kind == "reply"}
    assert heads == {"a": "ab" * 32, "b": None}


def test_a_shared_head_is_averaged_over_the_sites_of_its_task_only(
    make_config, make_card, tmp_path
):
    config = make_config(aggregation={"heads": "shared"})
    cards = [
        make_card(config, "a", severity=30),
        make_card(config, "b", severity=10),
        make_card(config, "c", prognosis=1000),
    ]
    arrays = {W: float32([0]), HEAD: float32([0])}
    updates = {"a": {W: [0], HEAD: [4]}, "b": {W: [0], HEAD: [8]}, "c": {W: [8]}}
    got = {}

    def answer(site, message):
        got[site] = set(unpack(message.content.array_records["arrays"][BLOB].data))
        return reply(message, site, updates[site])

    state, _ = play(make_federation(config, cards, arrays), answer, tmp_path)
    assert got == {"a": {W, HEAD}, "b": {W, HEAD}, "c": {W}}
    assert state.arrays[HEAD].tolist() == [5.0]  # (30·4 + 10·8) / 40
    assert state.arrays[W].tolist() == [4.0]  # both tasks weigh one half


def test_a_shared_head_stays_if_no_accepted_site_has_a_label_of_its_task(
    make_config, make_card, tmp_path
):
    """Site a has validation labels of severity alone, and b, which has the others, is silent."""
    config = make_config(
        aggregation={"heads": "shared"}, training={"rounds": 1, "round_timeout": 0.1}
    )
    cards = [
        make_card(config, "a", severity=0, prognosis=5),
        make_card(config, "b", severity=10),
    ]
    arrays = {W: float32([0]), HEAD: float32([3])}

    def answer(site, message):
        return reply(message, site, {W: [2], HEAD: [9]}) if site == "a" else None

    state, _ = play(make_federation(config, cards, arrays), answer, tmp_path)
    assert state.arrays[W].tolist() == [2]
    assert state.arrays[HEAD].tolist() == [3]


def good(site, message):
    return reply(message, site, {W: [4], RUNNING: [0]})


def answer_of_b(kind, message):
    arrays = {W: [4], RUNNING: [0]}
    if kind == "silent":
        return None
    if kind == "error":
        return Message(Error(2, "DataError at the site; its own log says more"), reply_to=message)
    if kind == "empty":
        return Message(RecordDict(), reply_to=message)
    arrays |= {
        "nan": {W: [math.nan]},
        "extra key": {"heads.prognosis.weight": [1]},
        "shape": {W: [4, 4]},
        "huge": {W: np.zeros(300_000)},
    }.get(kind, {})
    if kind == "missing key":
        del arrays[RUNNING]
    changes = {
        "negative": {"validation": {"prognosis/examples": -8}},
        "foreign task": {"validation": {"severity/mae": 1.0}},
        "wrong round": {"number": 7},
        "dtype": {"blob": pack({W: np.float64([4]), RUNNING: float32([0])})},
        "garbage": {"blob": b"not an array"},
    }.get(kind, {})
    site = "a" if kind == "wrong name" else "b"
    answer = reply(message, site, arrays, **changes)
    if kind == "long":
        report = answer.content.config_records["report"]
        report["json"] = str(report["json"]) + " " * 2**20
    if kind == "stowaway":
        answer.content.config_records["more"] = ConfigRecord({"bytes": bytes(2**21)})
    if kind == "unnamed":
        record = answer.content.array_records["arrays"]
        record["pickle"] = record.pop(BLOB)
    return answer


REASONS = {
    "silent": "no answer within",
    "error": "DataError at the site",
    "empty": "holds no valid report",
    "nan": f"array {W} is not finite",
    "extra key": "array heads.prognosis.weight was not asked for",
    "missing key": f"array {RUNNING} is missing",
    "shape": f"array {W} is float32 [2]",
    "dtype": f"array {W} is float64 [1]",
    "huge": "bytes, at most",
    "negative": "holds no valid report",
    "foreign task": "the report names the task 'severity', which the site lacks",
    "long": "characters",
    "stowaway": "bytes, at most",
    "garbage": "cannot be decoded",
    "unnamed": "has no arrays",
    "wrong name": "the report is of site a",
    "wrong round": "round 7",
}


@pytest.mark.parametrize("kind", REASONS)
def test_an_unusable_answer_is_left_out_by_name_and_the_others_count(federation, kind, tmp_path):
    def answer(site, message):
        if site == "b":
            return answer_of_b(kind, message)
        return reply(message, "a", {W: [2], RUNNING: [0]})

    state, line = play(federation(), answer, tmp_path)
    assert state.arrays[W].tolist() == [2.0]  # a alone
    assert list(line["refusals"]) == ["b"]
    assert REASONS[kind] in line["refusals"]["b"]
    assert list(line["sites"]["b"]) == ["bytes_down"], "what it was sent is in the history"
    assert line["sites"]["b"]["bytes_down"] > 0


def test_a_site_that_is_away_is_waited_for_one_deadline_and_not_again(federation, tmp_path):
    one = federation(absent={3})
    _, line = play(one, good, tmp_path)
    assert line["refusals"] == {"b": "not connected"}
    started = time.monotonic()
    _, line = play(one, lambda s, m: reply(m, s, {W: [4], RUNNING: [0]}, 2), tmp_path, 2)
    assert line["refusals"] == {"b": "not connected"}
    assert "b" not in line["sites"], "nothing was sent to it"
    assert time.monotonic() - started < one.config.training.round_timeout


def test_a_site_whose_node_was_lost_misses_no_round(federation, tmp_path, monkeypatch):
    """Flower answers in its stead first; the site then answers the same order."""
    monkeypatch.setattr(messaging, "_AGAIN", 0.02)
    orders = []

    def answer(site, message):
        if site == "b":
            orders.append(message)
            if len(orders) == 1:
                return Message(Error(5, "Node Unavailable"), reply_to=message)
        return good(site, message)

    state, line = play(federation(), answer, tmp_path)
    assert line["refusals"] == {}
    assert state.arrays[W].tolist() == [4.0]
    assert orders[0].content is orders[1].content


def test_in_a_simulation_only_a_sites_own_time_counts(make_config, make_card, two_sites, tmp_path):
    """b took longer than round_timeout, and a waited for it: b is late and a is not."""
    config = make_config(sites=two_sites, training={"rounds": 1, "round_timeout": 5})
    cards = [make_card(config, "a", prognosis=25), make_card(config, "b", prognosis=75)]
    seconds = {"a": 4.0, "b": 5.5}

    def answer(site, message):
        return reply(message, site, {W: [2], RUNNING: [0]}, seconds=seconds[site])

    _, line = play(make_federation(config, cards, START), answer, tmp_path)
    assert line["refusals"] == {"b": "took 5.5 s; training.round_timeout is 5 s"}


BIG = "backbone.big"
BIG_START = np.random.default_rng(0).normal(size=(16, 64)).astype(float32)
SCALE = f"{BIG}:scale"
HOSTILE = {
    "no scale": ({SCALE: np.zeros(0, float32)}, "no scale for each channel"),
    "NaN scale": ({SCALE: np.full(16, np.nan, float32)}, "an invalid scale"),
    "negative scale": ({SCALE: np.full(16, -1, float32)}, "an invalid scale"),
    "absurd scale": ({SCALE: np.full(16, 1e30, float32)}, "times as long as"),
    "another shape": ({BIG: np.zeros((16, 65), np.int8)}, "that was not sent"),
    "one array more": ({"backbone.more": np.zeros(4, float32)}, "was not asked for"),
    "float16": ({BIG: np.zeros((16, 64), np.float16)}, "float16 [16, 64], not float32"),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_a_hostile_difference_is_refused_and_the_others_count(federation, kind, tmp_path):
    changes, why = HOSTILE[kind]
    one = federation({BIG: BIG_START}, wire={"up": "int8"})
    codec = Codec(one.config.wire)

    def answer(site, message):
        blob, _ = codec.upload({BIG: BIG_START + 1}, {BIG: BIG_START}, {})
        if site == "b":
            blob = pack(unpack(blob) | changes)
        return reply(message, site, {}, blob=blob)

    one.state = State({BIG: BIG_START})
    state, line = play(one, answer, tmp_path)
    assert list(line["refusals"]) == ["b"]
    assert why in line["refusals"]["b"]
    assert np.allclose(state.arrays[BIG], BIG_START + 1, atol=1e-5)


def test_below_the_quorum_the_run_fails_and_says_why(federation, tmp_path):
    def answer(site, message):
        return answer_of_b("nan", message) if site == "b" else good(site, message)

    with pytest.raises(
        RunError, match=r"1 updates could be used, 2 are needed \(b: array .* finite"
    ):
        play(federation(aggregation={"min_sites": 2}), answer, tmp_path)


def test_on_missing_stop_fails_at_the_first_absence(federation, tmp_path):
    with pytest.raises(RunError, match=r"aggregation\.on_missing"):
        play(federation(aggregation={"on_missing": "stop"}, absent={3}), good, tmp_path)


def test_sites_are_drawn_by_seed_and_round_not_by_node_order(make_config, make_card):
    config = make_config(aggregation={"fraction": 0.5})
    cards = [make_card(config, f"site-{i}", prognosis=1) for i in range(8)]

    def drawn(cards, number):
        federation = make_federation(config, cards, START)
        return sorted(card.name for card in select(federation, number).values())

    assert drawn(cards, 1) == drawn(cards[::-1], 1)
    assert len(drawn(cards, 1)) == 4
    assert len({tuple(drawn(cards, number)) for number in range(1, 6)}) > 1


def test_odd_metrics_of_one_site_are_refused_not_averaged():
    """A hostile report must not end the run: names have the form task/metric, support may lack."""
    report = {"site": "b", "round": 1, "losses": {}, "images": 1, "steps": 1}
    report |= {"seconds": 0.0, "new_memory": False}
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
