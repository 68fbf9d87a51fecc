"""Federations whose backbone is rounded on the wire: bytes, bits, resume."""

from __future__ import annotations

import json

import numpy as np
import pytest
from builders import SEVERITY, synthetic_site
from flwr.app import Error, Message, MessageType
from safetensors.numpy import load_file
from test_resume import Killed, assert_survives_kills, comparable, lines, run, stop_in_round

from mdmt.blob import BLOB, describe, unpack
from mdmt.models import broadcast_names, build_model, get_arrays
from server.run import RunDirectory

LOSSY = {"up": "int8", "down": "float16"}
TRAINING = {"rounds": 4, "local_steps": 1, "batch_size": 4}


def blob_of(message):
    return message.content.array_records["arrays"][BLOB].data


def types(message):
    return {kind for kind, _, _ in describe(blob_of(message)).values()}


def checkpoint(out, number=4):
    return load_file(out / "checkpoints" / f"round-{number:05d}.safetensors")


@pytest.fixture
def config(make_config, two_sites):
    return make_config(sites=two_sites, training=TRAINING, wire=LOSSY)


@pytest.mark.parametrize(
    ("up", "down", "most"),
    [("float32", "float32", 1.0), ("float16", "float16", 0.51), ("int8", "float16", 0.4)],
)
def test_bytes_of_a_resnet18(make_config, tmp_path, up, down, most):
    """11.2 million float32 are 44.7 MB, each way, in every round."""
    out = run(
        make_config(
            model={"backbone": "resnet18", "image_size": 32},
            tasks={"severity": dict(SEVERITY)},
            sites={"clinic": synthetic_site(tmp_path, "severity")},
            training={"rounds": 2, "local_steps": 1, "batch_size": 2},
            wire={"up": up, "down": down},
        ),
        tmp_path / "run",
    )
    for line in lines(out / "history.jsonl")[1:]:
        facts = line["sites"]["clinic"]
        assert facts["bytes_down"] + facts["bytes_up"] <= most * 1.005 * 2 * 44_700_000


def test_the_history_has_the_bytes_that_were_sent(config, federate):
    seen = []

    def content(message):
        texts = (t for c in message.content.config_records.values() for t in c.values())
        return len(blob_of(message)) + sum(len(str(text)) for text in texts)

    def record(number, message, reply):
        if message.metadata.message_type == MessageType.TRAIN:
            seen.append([content(message), content(reply)])
        return reply

    out = federate(config, record)
    assert seen == [
        [facts["bytes_down"], facts["bytes_up"]]
        for line in lines(out / "history.jsonl")[1:]
        for _, facts in sorted(line["sites"].items())
    ]


@pytest.mark.parametrize("algorithm", ["fedavg", "fedprox", "fedavgm", "fedadam", "fedyogi"])
def test_a_rounded_federation_stays_near_the_exact_one(make_config, two_sites, federate, algorithm):
    """Server optimisers, shared heads, running statistics: what two rounds change is the same."""
    options = {
        "sites": two_sites,
        "algorithm": algorithm,
        "aggregation": {"heads": "shared"},
        "training": {"rounds": 2, "local_steps": 1, "batch_size": 8, "optimizer": {"name": "sgd"}},
    }
    config = make_config(**options)
    model = build_model(config, tuple(config.tasks), weights=False)
    start = get_arrays(model, broadcast_names(model, config.aggregation))
    exact = checkpoint(federate(config), 2)
    change = distance(exact, start, start)
    for wire in (LOSSY, {"up": "float16"}, {"down": "float16"}):
        lossy = checkpoint(federate(make_config(**options, wire=wire)), 2)
        assert 0 < distance(lossy, exact, start) < 0.1 * change, wire


def distance(one, other, names):
    """Euclidean distance of the arrays with these names."""
    return np.linalg.norm(np.concatenate([(one[n] - other[n]).ravel() for n in names]))


@pytest.mark.parametrize("norm_layers", ["average", "local", "frozen"])
def test_only_large_arrays_are_rounded(make_config, two_sites, federate, norm_layers):
    seen = set()

    def record(number, message, reply):
        if message.metadata.message_type == MessageType.TRAIN:
            seen.add((*sorted(types(message)), "up", *sorted(types(reply))))
            for name, (kind, shape, _) in describe(blob_of(reply)).items():
                assert kind == "F32" or len(shape) > 1, name  # no running statistics
        return reply

    aggregation = {"norm_layers": norm_layers}
    federate(
        make_config(sites=two_sites, training=TRAINING, wire=LOSSY, aggregation=aggregation), record
    )
    assert seen == {("F16", "F32", "up", "F32", "I8")}


@pytest.mark.slow
@pytest.mark.parametrize(
    "changes",
    [
        {"wire": {"up": "float16"}, "algorithm": "fedadam"},
        {"wire": LOSSY, "aggregation": {"heads": "shared", "norm_layers": "local"}},
    ],
    ids=str,
)
def test_wherever_it_is_killed_a_resumed_run_ends_as_an_undisturbed_one(
    make_config, two_sites, tmp_path, monkeypatch, changes
):
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


def test_a_site_keeps_what_its_update_lost_and_nothing_where_the_codec_is_exact(
    make_config, two_sites, federate
):
    def lost(out):
        files = (out / "sites" / "clinic").rglob("federated/round-*.safetensors")
        return {n for f in files for n in load_file(f) if n.startswith("lost.")}

    assert lost(federate(make_config(sites=two_sites, wire={"up": "int8"})))
    assert lost(federate(make_config(sites=two_sites))) == set()


def test_a_site_whose_answer_was_lost_goes_on_in_the_next_round(config, federate):
    def tamper(number, message, reply):
        if message.metadata.message_type == MessageType.TRAIN and number == 0:
            order = json.loads(str(message.content.config_records["config"]["order"]))
            if order["round"] == 2:
                return Message(Error(2, "lost"), reply_to=message)
        return reply

    history = lines(federate(config, tamper) / "history.jsonl")
    assert [list(line["refusals"]) for line in history] == [[], [], ["clinic"], [], []]


def test_what_is_tested_in_the_end_is_the_released_backbone_exact(config, federate):
    seen = []

    def record(number, message, reply):
        if message.metadata.message_type == MessageType.EVALUATE:
            seen.append(unpack(blob_of(message)))
        return reply

    last = checkpoint(federate(config, record))
    assert any(all(np.array_equal(last[n], array) for n, array in one.items()) for one in seen)
    assert {array.dtype for one in seen for array in one.values()} == {np.dtype(np.float32)}
