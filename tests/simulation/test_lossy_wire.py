"""Federations whose backbone travels as deltas: bytes, bits, and sites that fell out of step."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
from builders import SEVERITY, synthetic_site
from flwr.app import MessageType
from safetensors.numpy import load_file
from test_resume import (
    Killed,
    assert_survives_kills,
    comparable,
    lines,
    run,
    stop_in_round,
)

from mdmt.models import build_model, get_arrays, received
from mdmt.wire import BLOB, describe, facts_of, inflate
from server.records import blob_record
from server.run import RunDirectory

INT8 = {"up": "int8", "down": "int8"}
TRAINING = {"rounds": 4, "local_steps": 1, "batch_size": 4}


def arrays(message):
    """A message's blob, inflated."""
    return inflate(message.content.array_records["arrays"][BLOB].data, 10**8)


def kinds(message):
    return {kind for kind, _, _ in describe(arrays(message)).values()}


def history(out):
    return lines(out / "history.jsonl")


def checkpoint(out, number=4):
    return load_file(out / "checkpoints" / f"round-{number:05d}.safetensors")


@pytest.fixture
def config(make_config, two_sites):
    return make_config(sites=two_sites, training=TRAINING, wire=INT8)


@pytest.mark.parametrize(("encoding", "most"), [("float32", 1.0), ("float16", 0.5), ("int8", 0.27)])
def test_bytes_of_a_resnet18_after_the_first_round(make_config, tmp_path, encoding, most):
    """11.2 million float32 are 44.7 MB; the first round has nothing to build on."""
    out = run(
        make_config(
            model={"backbone": "resnet18", "image_size": 32},
            tasks={"severity": dict(SEVERITY)},
            sites={"clinic": synthetic_site(tmp_path, "severity")},
            training={"rounds": 2, "local_steps": 1, "batch_size": 2},
            wire={"up": encoding, "down": encoding},
        ),
        tmp_path / "run",
    )
    first, second = (line["sites"]["clinic"] for line in history(out)[1:])
    whole = 44_700_000
    assert first["bytes_down"] == pytest.approx(whole, rel=0.01)
    assert max(first["bytes_up"], second["bytes_up"], second["bytes_down"]) <= most * 1.005 * whole


def test_the_history_tells_what_was_really_sent(config, federate):
    seen = []

    def record(number, message, reply):
        if message.metadata.message_type == MessageType.TRAIN:
            seen.append([sum(map(len, content(m))) for m in (message, reply)])
        return reply

    def content(message):
        yield message.content.array_records["arrays"][BLOB].data
        for texts in message.content.config_records.values():
            yield from map(str, texts.values())

    out = federate(config, record)
    told = [
        [site["bytes_down"], site["bytes_up"]]
        for line in history(out)[1:]
        for _, site in sorted(line["sites"].items())
    ]
    assert told == seen
    assert seen[-1][0] < 0.4 * seen[0][0], "test_resnet has many small arrays"


@pytest.mark.parametrize("strategy", ["fedavg", "fedprox", "fedavgm", "fedadam", "fedyogi"])
@pytest.mark.parametrize("wire", [INT8, {"up": "float16"}, {"down": "float16"}], ids=str)
def test_a_lossy_federation_stays_near_the_exact_one(
    make_config, two_sites, federate, strategy, wire
):
    """Server optimisers, shared heads, running statistics: what is learnt is the same, nearly.

    Compared is what two rounds of training changed.
    """
    options = {
        "sites": two_sites,
        "aggregation": {"strategy": strategy, "heads": "shared"},
        "training": {"rounds": 2, "local_steps": 1, "batch_size": 8, "optimizer": {"name": "sgd"}},
    }
    exact = federate(make_config(**options))
    lossy = federate(make_config(**options, wire=wire))
    config = make_config(**options)
    model = build_model(config, tuple(config.tasks), weights=False)
    start = get_arrays(model, received(model, config.aggregation))
    theirs, ours = checkpoint(exact, 2), checkpoint(lossy, 2)
    change, off = (
        np.concatenate([(a[n] - b[n]).ravel() for n in start])
        for a, b in ((theirs, start), (ours, theirs))
    )
    assert 0 < np.linalg.norm(off) < 0.05 * np.linalg.norm(change)


@pytest.mark.parametrize("norm_layers", ["average", "local", "frozen"])
def test_every_site_trains_from_the_same_bits_and_only_large_arrays_lose_any(
    make_config, two_sites, federate, norm_layers
):
    told, seen = {}, []

    def record(number, message, reply):
        if message.metadata.message_type == MessageType.TRAIN:
            order = json.loads(str(message.content.config_records["config"]["order"]))
            facts = facts_of(arrays(message))
            assert facts_of(arrays(reply))["base"] == facts["fingerprint"]
            told.setdefault(order["round"], set()).add(facts["fingerprint"])
            seen.append((order["round"], "base" in facts, kinds(message), kinds(reply)))
        return reply

    config = make_config(
        sites=two_sites,
        training=TRAINING,
        wire=INT8,
        aggregation={"norm_layers": norm_layers},
    )
    federate(config, record)
    assert {number: len(prints) for number, prints in told.items()} == dict.fromkeys(range(1, 5), 1)
    for number, delta, down, up in seen:
        assert delta == (number > 1)
        assert down == ({"F32", "I8"} if delta else {"F32"})
        assert up == {"F32", "I8"}


@pytest.mark.slow
@pytest.mark.parametrize(
    "changes",
    [
        {"wire": INT8},
        {"wire": {"up": "float16", "down": "int8"}, "aggregation": {"strategy": "fedadam"}},
        {"wire": INT8, "aggregation": {"heads": "shared", "norm_layers": "local"}},
    ],
    ids=str,
)
def test_wherever_it_is_killed_a_resumed_run_ends_as_an_undisturbed_one(
    make_config, two_sites, tmp_path, monkeypatch, changes
):
    """The same bits, and the same bytes down: who has what is known again."""
    config = make_config(sites=two_sites, training=TRAINING | {"rounds": 3}, **changes)
    assert_survives_kills(config, tmp_path, monkeypatch, first=5, step=3)


def test_after_a_step_back_the_round_before_is_repeated_to_the_bit(config, tmp_path, monkeypatch):
    undisturbed = comparable(run(config, tmp_path / "undisturbed"))
    out = tmp_path / "killed"
    with monkeypatch.context() as patch:
        patch.setattr(RunDirectory, "event", stop_in_round(4))
        with pytest.raises(Killed):
            run(config, out)
    newest = max((out / "checkpoints").glob("round-*.safetensors"))
    newest.write_bytes(newest.read_bytes()[:-7])
    run(config, out, resume=True)
    assert comparable(out) == undisturbed


def lose(tmp_path, files, number=3):
    """A tamper function: after round 2 the clinic's `files` are gone; and what was seen later."""
    seen = []

    def tamper(site, message, reply):
        if message.metadata.message_type == MessageType.TRAIN and site == 0:
            order = json.loads(str(message.content.config_records["config"]["order"]))
            if order["round"] >= number:
                seen.append((order["round"], kinds(message), reply.has_error()))
            if order["round"] == number - 1:
                files(next((tmp_path / "run-0" / "sites" / "clinic" / "test").iterdir()))
        return reply

    return tamper, seen


def damage(folder):
    for file in (folder / "federated" / "wire").iterdir():
        file.write_bytes(file.read_bytes()[:-1])


@pytest.mark.parametrize(
    "files",
    [shutil.rmtree, lambda folder: shutil.rmtree(folder / "federated" / "wire"), damage],
    ids=["all state", "the wire's state", "damaged"],
)
def test_a_site_that_lost_what_a_delta_builds_on_is_sent_everything_in_the_same_round(
    config, federate, tmp_path, files
):
    tamper, seen = lose(tmp_path, files)
    out = federate(config, tamper)
    assert seen == [
        (3, {"F32", "I8"}, True),
        (3, {"F32"}, False),
        (4, {"F32", "I8"}, False),
    ]
    third = history(out)[3]
    assert third["refusals"] == {}
    assert (
        third["sites"]["clinic"]["bytes_down"]
        > 1.1 * history(out)[1]["sites"]["clinic"]["bytes_down"]
    ), "both messages count"


def test_a_delta_to_another_base_is_never_applied(config, federate, tmp_path):
    """The site has a sound file, but of other arrays than the server thinks."""

    def swap(folder):
        wire = folder / "federated" / "wire"
        saved = load_file(wire / "round-00002.safetensors")
        assert any(name.startswith("held.") for name in saved)
        from mdmt.checkpoints import RoundFiles  # its own identity, another content

        with_identity = RoundFiles(wire, {}).load(1).identity
        identity = {k: v for k, v in with_identity.items() if k != "round"}
        files = RoundFiles(wire, identity)
        earlier = files.load(1)
        files.save(2, earlier.tensors, earlier.facts)

    tamper, seen = lose(tmp_path, swap)
    federate(config, tamper)
    assert [error for _, _, error in seen] == [True, False, False]


def test_a_site_that_missed_a_round_or_is_drawn_now_and_then_is_sent_everything(
    make_config, two_sites, federate
):
    seen = []

    def record(number, message, reply):
        if message.metadata.message_type == MessageType.TRAIN:
            order = json.loads(str(message.content.config_records["config"]["order"]))
            seen.append((number, order["round"], "I8" in kinds(message)))
        return reply

    config = make_config(
        sites=two_sites,
        training=TRAINING | {"rounds": 8},
        wire=INT8,
        aggregation={"fraction": 0.5},
    )
    out = federate(config, record)
    rounds = {number: [r for n, r, _ in seen if n == number] for number in (0, 1)}
    assert rounds[0]
    assert rounds[1]
    for number, r, delta in seen:
        assert delta == (r - 1 in rounds[number]), f"site {number} in round {r}"
    assert all(line["refusals"] == {} for line in history(out))


def test_a_late_answer_is_lost_but_the_site_is_in_step_again_with_one_message(
    config, federate, monkeypatch
):
    from flwr.app import Error, Message

    seen = []

    def tamper(number, message, reply):
        if message.metadata.message_type == MessageType.TRAIN and number == 0:
            order = json.loads(str(message.content.config_records["config"]["order"]))
            seen.append((order["round"], "I8" in kinds(message)))
            if order["round"] == 2:
                return Message(Error(2, "lost"), reply_to=message)
        return reply

    federate(config, tamper)
    assert seen == [(1, False), (2, True), (3, False), (4, True)]


def test_an_update_to_other_arrays_than_were_sent_is_refused(config, federate):
    """Such as an answer to an earlier attempt at the round, or to nothing."""
    former = {}

    def tamper(number, message, reply):
        if message.metadata.message_type == MessageType.TRAIN and number == 0:
            order = json.loads(str(message.content.config_records["config"]["order"]))
            former[order["round"]] = arrays(reply)
            if order["round"] == 3:
                reply.content["arrays"] = blob_record(former[2])
        return reply

    out = federate(config, tamper)
    assert history(out)[3]["refusals"] == {
        "clinic": "the update is one to other arrays than were sent"
    }
    assert history(out)[4]["refusals"] == {}


def test_what_is_tested_in_the_end_is_the_released_backbone_exact(config, federate):
    seen = []

    def record(number, message, reply):
        if message.metadata.message_type == MessageType.EVALUATE:
            seen.append(arrays(message))
        return reply

    out = federate(config, record)
    from mdmt.wire import unpack

    last = checkpoint(out)
    assert any(
        all(np.array_equal(last[name], array) for name, array in unpack(blob).items())
        for blob in seen
    )
    assert kinds_of(seen) == {"F32"}


def kinds_of(blobs):
    return {kind for blob in blobs for kind, _, _ in describe(blob).values()}


def test_an_exact_wire_leaves_nothing_at_a_site_but_its_heads(make_config, two_sites, federate):
    out = federate(make_config(sites=two_sites))
    assert not list((out / "sites").rglob("wire"))
    assert not any(name.startswith("held.") for name in checkpoint(out, 2))


def test_a_site_keeps_the_wires_state_of_three_rounds_at_most(config, federate):
    out = federate(config)
    (folder,) = (out / "sites" / "clinic").rglob("federated/wire")
    assert sorted(int(file.stem[-5:]) for file in folder.iterdir()) == [2, 3, 4]
