"""Federations with secure aggregation: the result of plain aggregation, and nothing of one site."""

from __future__ import annotations

import json

import numpy as np
import pytest
from builders import synthetic_site
from flwr.app import Error, Message, MessageType
from safetensors.numpy import load_file
from test_resume import Killed, comparable, lines, run, stop_in_round

from mdmt.blob import BLOB, pack, unpack
from mdmt.errors import ConfigError, RegistrationError, RunError
from mdmt.models import broadcast_names, build_model, get_arrays
from server.run import RunDirectory
from simulation.simulate import simulate
from simulation.workers import start_workers

TRAINING = {"rounds": 3, "local_steps": 1, "batch_size": 4, "scheduler": "plateau"}
SECURE = {"secure_aggregation": True}
FROZEN = {"norm_layers": "frozen", "norm_bound": None}
"""Without the bound on single updates, which plain aggregation can check."""


def checkpoint(out, number=3):
    return load_file(out / "checkpoints" / f"round-{number:05d}.safetensors")


def blob_of(message):
    return message.content.array_records["arrays"][BLOB].data


def order_of(message):
    return json.loads(str(message.content.config_records["config"]["order"]))


@pytest.fixture
def sites(drawn):
    return {
        "clinic": synthetic_site(drawn, "severity", patients=12),
        "hospital": synthetic_site(drawn, "prognosis", patients=16),
        "ward": synthetic_site(drawn, "prognosis", "severity", patients=20),
    }


@pytest.fixture
def secure(make_config, sites):
    def make(**changes):
        options = {"sites": sites, "training": TRAINING, "privacy": SECURE}
        return make_config(**options | {"aggregation": FROZEN} | changes)

    return make


@pytest.mark.parametrize(
    ("algorithm", "aggregation"),
    [
        ("fedprox", {"norm_layers": "local", "weighting": "uniform"}),
        ("fedadam", FROZEN | {"weighting": "examples", "heads": "shared"}),
        ("ditto", FROZEN),
    ],
)
def test_the_result_is_that_of_plain_aggregation(
    secure, make_config, federate, tmp_path, algorithm, aggregation
):
    """After one round: training with batch statistics amplifies the last digit in later rounds."""
    training = TRAINING | {"rounds": 1}
    changes = {"aggregation": aggregation, "algorithm": algorithm, "training": training}
    if aggregation.get("heads") == "shared":  # three sites for each head; one lacks a task
        tasks = dict.fromkeys("abc", ("prognosis", "severity")) | {"d": ("prognosis",)}
        changes["sites"] = {name: synthetic_site(tmp_path, *t) for name, t in tasks.items()}
    config = secure(**changes)
    masked = federate(config)
    plain = federate(config.model_copy(update={"privacy": make_config().privacy}))
    model = build_model(config, tuple(config.tasks), weights=False)
    start = get_arrays(model, broadcast_names(model, config.aggregation))
    ours, theirs = checkpoint(masked, 1), checkpoint(plain, 1)
    assert ours.keys() == theirs.keys()
    error = max(float(np.abs(ours[n] - theirs[n]).max()) for n in ours)
    change = max(float(np.abs(theirs[n] - start[n]).max()) for n in start if n in theirs)
    # Three roundings of float32 besides N/2^(k+1) = 4e-9; FedAdam multiplies by lr/tau = 10.
    assert error < 1e-6 < 1e-4 < change


def test_a_reply_has_no_number_but_seconds_and_its_arrays_are_random(secure, federate):
    replies = []

    def record(number, message, reply):
        if message.metadata.message_type == MessageType.TRAIN:
            report = json.loads(str(reply.content.config_records["report"]["json"]))
            replies.append((report, unpack(blob_of(reply))))
        return reply

    out = federate(secure(), record)
    assert len(replies) == 9
    for report, arrays in replies:
        assert report.pop("seconds") > 0
        assert report.pop("round") in (1, 2, 3)
        assert report.pop("site") in ("clinic", "hospital", "ward")
        assert report.pop("new_memory") in (True, False)
        assert report == {"validation": {}, "losses": {}, "images": None, "steps": None}
        assert {array.dtype for array in arrays.values()} == {np.dtype(np.uint32)}
        bits = np.concatenate([array.ravel() for array in arrays.values()])
        counts = np.bincount(bits.view(np.uint8), minlength=256)
        expected = counts.sum() / 256
        assert ((counts - expected) ** 2 / expected).sum() < 400  # 255 degrees of freedom
    for line in lines(out / "history.jsonl")[:-1]:
        assert all("validation" not in facts for facts in line["sites"].values())
        assert line["tasks"]["severity/mae"] is not None
        assert line["tasks"]["severity/examples"] > 0


def test_three_rounds_are_those_of_plain_aggregation(secure, make_config, federate):
    """Frozen normalisation: no batch statistics amplify the last digit."""
    config = secure()
    outs = federate(config), federate(config.model_copy(update={"privacy": make_config().privacy}))
    ours, theirs = map(checkpoint, outs)
    assert max(float(np.abs(ours[n] - theirs[n]).max()) for n in ours) < 1e-6
    metrics = [json.loads((out / "metrics.json").read_text()) for out in outs]
    rounds = [{n: c["round"] for n, c in found["checkpoints"].items()} for found in metrics]
    assert rounds[0] == rounds[1]
    masked, plain = (lines(out / "history.jsonl") for out in outs)
    for one, other in zip(masked, plain, strict=True):
        assert one.get("clipped", 0) == 0
        assert one["tasks"].keys() <= other["tasks"].keys()
        for name, value in one["tasks"].items():
            assert value == pytest.approx(other["tasks"][name], abs=1e-5), name


def test_workers_give_the_same_bits(secure, tmp_path):
    config = secure(references=["local"])
    alone, shared = tmp_path / "alone", tmp_path / "shared"
    run(config, alone)
    shared.mkdir()
    with start_workers(config, 2) as started:
        simulate(config, shared, "inprocess", started)
    assert comparable(alone)[1:] == comparable(shared)[1:]


def test_a_killed_server_resumes_with_the_same_answers(secure, tmp_path, monkeypatch):
    config = secure()
    undisturbed = comparable(run(config, tmp_path / "undisturbed"))
    out = tmp_path / "killed"
    with monkeypatch.context() as patch:
        patch.setattr(RunDirectory, "event", stop_in_round(3))
        with pytest.raises(Killed):
            run(config, out)
    # The last checkpoint was not finished: rounds 2 and 3 are asked again.
    (out / "checkpoints" / "round-00002.safetensors").unlink()
    kept = {path: path.read_bytes() for path in out.rglob("secure/round-0000[23]")}
    assert len(kept) >= 4
    run(config, out, resume=True)
    assert comparable(out) == undisturbed
    for path, content in kept.items():
        assert path.read_bytes() == content


def test_a_missing_site_stops_the_run_which_goes_on_when_it_is_back(secure, tmp_path, federate):
    config = secure()
    undisturbed = comparable(federate(config))

    def lose(number, message, reply):
        train = message.metadata.message_type == MessageType.TRAIN
        if train and number == 1 and order_of(message)["round"] == 2:
            return Message(Error(2, "lost"), reply_to=message)
        return reply

    with pytest.raises(RunError, match=r"every site \(hospital: lost\); continue with --resume"):
        federate(config, lose)
    out = tmp_path / "run-1"
    run(config, out, resume=True)
    assert comparable(out) == undisturbed


def test_the_key_of_the_run_is_private_and_deleted_at_its_end(secure, federate, tmp_path):
    seen = {}

    def look(number, message, reply):
        for path in tmp_path.rglob("secure/key"):
            seen[path] = path.stat().st_mode & 0o777
        return reply

    out = federate(secure(), look)
    assert set(seen.values()) == {0o600}
    assert len(seen) == 3
    assert [*out.rglob("secure/key")] == []


def test_what_cannot_be_summed_is_refused(secure, make_config, sites, federate):
    for changes, text in (
        ({"aggregation": {"fraction": 0.5}, "training": {"rounds": 1}}, "cancel only together"),
        ({"wire": {"up": "int8"}}, "wire.up must be float32"),
        ({"wire": {"down": "float16"}}, "wire.down"),
    ):
        with pytest.raises(ValueError, match=text):
            secure(**changes)
    with pytest.raises(ConfigError, match="running statistics"):
        federate(secure(aggregation={}))
    with pytest.raises(RegistrationError, match="needs 3 sites, there are 2"):
        federate(secure(sites={name: sites[name] for name in ("clinic", "ward")}))
    with pytest.raises(RegistrationError, match="head of prognosis needs 3 sites"):
        federate(secure(aggregation=FROZEN | {"heads": "shared"}))


def test_a_tampered_mask_is_found_in_the_sum(secure, federate):
    def tamper(number, message, reply):
        if message.metadata.message_type == MessageType.TRAIN and number == 2:
            arrays = {n: a ^ np.uint32(0xA5A5A5A5) for n, a in unpack(blob_of(reply)).items()}
            record = reply.content.array_records["arrays"]
            record[BLOB].data = pack(arrays)
        return reply

    with pytest.raises(RunError, match="larger than all updates together"):
        federate(secure(), tamper)


def test_large_updates_are_clipped_and_counted(secure, federate):
    config = secure(privacy=SECURE | {"update_bound": 1e-5})
    history = lines(federate(config) / "history.jsonl")
    assert all(line["clipped"] > 100 for line in history[1:])
