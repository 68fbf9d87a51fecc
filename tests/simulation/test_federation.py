"""Whole federations in one process: what they compute, what they survive, what they write."""

from __future__ import annotations

import json
import time
from shutil import rmtree

import numpy as np
import pytest
import torch
from blobs import pack_record
from builders import PROGNOSIS, SEVERITY, rows, site
from flwr.app import Context, Error, Message, MessageType, RecordDict
from flwr.common.constant import ErrorCode
from safetensors.numpy import load_file

import client.references
import client.site
import mdmt.central
from client.app import app as client_app
from client.site import Site
from mdmt.blob import BLOB, pack, unpack
from mdmt.central import train_centrally
from mdmt.data.cohort import open_cohort
from mdmt.errors import IncompleteError, RegistrationError, RunError
from mdmt.evaluation import evaluate_model
from mdmt.messages import ReferenceOrder
from server.federation import initial_arrays
from simulation.engine import InProcessGrid


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def backbone(out):
    """The last checkpoint."""
    return load_file(max((out / "checkpoints").glob("round-*.safetensors")))


def same_bits(a, b):
    return a.keys() == b.keys() and all(np.array_equal(a[k], b[k]) for k in a)


ZONES = dict(zip("ABCDEF", [["0", "3"], ["1"], ["2"], ["0"], ["1", "2"], ["3"]], strict=True))


def test_the_same_seed_gives_the_same_bits(make_config, two_sites, federate):
    config = make_config(
        sites=two_sites, references=["local"], augmentation={"elastic": [2, 4], "flip": True}
    )
    first, second = federate(config), federate(config)
    assert same_bits(backbone(first), backbone(second))
    assert (first / "metrics.json").read_text() == (second / "metrics.json").read_text()
    other = federate(config.model_copy(update={"seed": 1}))
    assert not same_bits(backbone(first), backbone(other))


def test_history_books_each_backbone_under_the_round_that_made_it(make_config, two_sites, federate):
    out = federate(make_config(sites=two_sites, training={"rounds": 3, "local_steps": 1}))
    history = lines(out / "history.jsonl")
    assert [line["round"] for line in history] == [0, 1, 2, 3]
    metrics = json.loads((out / "metrics.json").read_text())["checkpoints"]["last"]
    assert metrics["round"] == 3
    validation = {s: m["val"] for s, m in metrics["sites"].items()}
    assert {s: v["validation"] for s, v in history[3]["sites"].items()} == validation
    assert history[3]["sites"]["clinic"]["bytes_up"] > 1_000_000  # test_resnet has 372,400 floats


def test_metrics_json_has_its_schema(make_config, two_sites, federate):
    two_sites["clinic"]["dataset"] |= {"patients": 30, "test_fraction": 0.5}
    out = federate(make_config(sites=two_sites, references=["constant", "local"]))
    metrics = json.loads((out / "metrics.json").read_text())
    assert metrics["format"] == 1
    assert set(metrics["checkpoints"]) == {"last", "best:prognosis", "best:severity"}
    assert set(metrics["references"]) == {"constant", "local"}
    for part in (*metrics["checkpoints"].values(), *metrics["references"].values()):
        assert set(part["sites"]) == {"clinic", "hospital"}
        assert part["sites"]["clinic"]["test"]["severity/examples"] > 0
        assert "prognosis/auroc" in part["sites"]["hospital"]["val"]
    last = metrics["checkpoints"]["last"]
    assert set(last["differences"]) == {"constant", "local"}
    for name, at in last["differences"].items():
        other = metrics["references"][name]["sites"]
        for where, key in (("clinic", "severity/mae"), ("hospital", "prognosis/auroc")):
            expected = last["sites"][where]["test"][key] - other[where]["test"][key]
            assert at[where][key] == pytest.approx(expected)
            assert (at[where][f"{key}_low"] is None) == (where == "hospital")  # few of a class
    # A constant cannot rank: its AUROC is one half.
    constant = metrics["references"]["constant"]["sites"]["hospital"]["test"]
    assert constant["prognosis/auroc"] == 0.5


def test_the_local_reference_is_training_in_one_place(make_config, two_sites, federate):
    """Nothing is averaged: moments go on, and the schedule spans the rounds that are trained."""
    training = {"rounds": 3, "local_steps": 1, "batch_size": 8, "scheduler": "cosine"}
    config = make_config(sites=two_sites, training=training, references=["local"])
    out = federate(config)
    local = json.loads((out / "metrics.json").read_text())["references"]["local"]["sites"]
    cohort, cpu = open_cohort(config.sites["clinic"], config), torch.device("cpu")
    alone = train_centrally(
        config, {"clinic": cohort}, ["severity"], who="clinic", rounds=3, device=cpu
    )
    expected = evaluate_model(alone.model, cohort, config, ["severity"], cpu).metrics
    assert local["clinic"] == expected


def test_a_site_that_was_drawn_now_and_then_anneals_over_the_rounds_it_trains_alone(
    make_config, two_sites, federate, monkeypatch
):
    """It trains alone as often as it took part, and its cosine ends with the last of them."""
    spans = []
    original = client.references.central_rounds

    def spy(*arguments, rounds, **options):
        spans.append(rounds)
        return original(*arguments, rounds=rounds, **options)

    monkeypatch.setattr("client.references.central_rounds", spy)
    training = {"rounds": 4, "local_steps": 1, "batch_size": 8, "scheduler": "cosine"}
    aggregation = {"fraction": 0.5}
    config = make_config(
        sites=two_sites, training=training, aggregation=aggregation, references=["local"]
    )
    out = federate(config)
    trained = [
        sum("steps" in line["sites"].get(name, {}) for line in lines(out / "history.jsonl"))
        for name in sorted(two_sites)
    ]
    assert spans == trained
    assert sum(trained) == 4


def test_a_repeated_reference_order_continues_after_the_last_round_that_was_kept(
    make_config, two_sites, tmp_path, monkeypatch
):
    config = make_config(
        sites=two_sites, references=["local"], training={"rounds": 3, "local_steps": 1}
    )
    order = ReferenceOrder(run="0" * 12, round=3, recipe=config.recipe)
    blob = pack(initial_arrays(config))

    def site_in(folder):
        return Site(config.sites["clinic"].model_copy(update={"state_dir": tmp_path / folder}))

    whole = site_in("whole").reference(order, blob)
    trained, original = [], mdmt.central.train

    def die_once(*arguments, round_number, **options):
        trained.append(round_number)
        if trained == [1, 2]:
            raise RuntimeError("the worker is killed")
        return original(*arguments, round_number=round_number, **options)

    monkeypatch.setattr("mdmt.central.train", die_once)
    with pytest.raises(RuntimeError):
        site_in("killed").reference(order, blob)
    assert site_in("killed").reference(order, blob) == whole
    assert trained == [1, 2, 2, 3]


def test_a_site_that_is_not_connected_costs_the_others_no_reference(
    make_config, two_sites, federate, monkeypatch, tmp_path
):
    """The result lacks that site alone, and the run says so."""
    original = InProcessGrid.get_nodes

    def without_the_first(self):
        nodes = list(original(self))
        return nodes[1:] if gone else nodes

    def leave(number, message, reply):
        if message.metadata.message_type == MessageType.EVALUATE:
            gone.append(number)
        return reply

    gone = []
    monkeypatch.setattr(InProcessGrid, "get_nodes", without_the_first)
    aggregation = {"join_timeout": 0.5}
    training = {"rounds": 1, "local_steps": 1, "batch_size": 4, "round_timeout": 20}
    config = make_config(
        sites=two_sites, references=["local"], aggregation=aggregation, training=training
    )
    started = time.monotonic()
    with pytest.raises(IncompleteError, match=r"clinic \(not connected\) did not measure local;"):
        federate(config, leave)
    assert gone
    (file,) = tmp_path.rglob("metrics.json")
    metrics = json.loads(file.read_text())
    assert set(metrics["references"]["local"]["sites"]) == {"hospital"}
    assert metrics["missing"] == {"local": {"clinic": "not connected"}}
    assert time.monotonic() - started < 20, "it is waited for as long as registration waits"


def test_a_site_whose_connection_broke_is_sent_the_reference_order_again(
    make_config, two_sites, federate, monkeypatch
):
    monkeypatch.setattr("server.messaging._AGAIN", 0.05)
    orders = []

    def tamper(number, message, reply):
        if message.metadata.message_type == "evaluate.reference" and number == 0:
            orders.append(number)
            if len(orders) == 1:
                gone = Error(ErrorCode.NODE_UNAVAILABLE, "the node is unavailable")
                return Message(gone, reply_to=message)
        return reply

    out = federate(make_config(sites=two_sites, references=["local"]), tamper)
    references = json.loads((out / "metrics.json").read_text())["references"]
    assert set(references["local"]["sites"]) == {"clinic", "hospital"}
    assert len(orders) == 2


def test_a_site_never_holds_or_sends_anything_of_anothers_task(make_config, two_sites, federate):
    seen, names = {0: [], 1: []}, set()

    def record(number, message, reply):
        seen[number].append(reply)
        for one in (message, reply):  # at once: what was averaged is let go
            for arrays in one.content.array_records.values():
                names.update(unpack(arrays[BLOB].data))
        return reply

    out = federate(make_config(sites=two_sites), record)
    assert names
    assert all(name.startswith("backbone.") for name in names)
    for number, foreign in ((0, "prognosis"), (1, "severity")):
        for reply in seen[number]:
            for record_ in reply.content.config_records.values():
                assert all(foreign not in str(value) for value in record_.values())
    for file in (out / "sites" / "clinic").rglob("*.safetensors"):
        assert not any("prognosis" in name for name in load_file(file))


def test_shared_heads_travel_between_the_sites_of_a_task(make_config, two_sites, federate):
    sites = two_sites | {"ward": two_sites["hospital"]}
    config = make_config(
        sites=sites,
        aggregation={"heads": "shared"},
        tasks={"prognosis": PROGNOSIS | {"head": "mlp"}, "severity": dict(SEVERITY)},
    )
    out = federate(config)
    heads = [name for name in backbone(out) if name.startswith("heads.")]
    assert any(name.startswith("heads.prognosis.") for name in heads)
    metrics = json.loads((out / "metrics.json").read_text())["checkpoints"]["last"]["sites"]
    assert set(metrics) == {"clinic", "hospital", "ward"}
    # Nothing stays at home, so nothing is kept there.
    kept = [load_file(f) for f in (out / "sites" / "ward").rglob("round-*.safetensors")]
    assert all(not any(n.startswith("heads.") for n in tensors) for tensors in kept)


@pytest.mark.parametrize("norm_layers", ["average", "local", "frozen"])
def test_normalisation_policies(make_config, two_sites, federate, norm_layers):
    out = federate(make_config(sites=two_sites, aggregation={"norm_layers": norm_layers}))
    last = backbone(out)
    moved = [n for n in last if n.endswith("running_mean") and np.any(last[n] != 0)]
    assert bool(moved) == (norm_layers == "average")
    state = next(iter(sorted((out / "sites" / "clinic").rglob("round-00002.safetensors"))))
    own = [n for n in load_file(state) if n.endswith("running_mean")]
    assert bool(own) == (norm_layers == "local")


@pytest.mark.parametrize(
    "kind",
    [
        {"kind": "classification", "classes": ["0", "1", "2"], "class_weights": "balanced"},
        {"kind": "regression", "outputs": ["A", "B"], "range": [0, 3]},
        {"kind": "ordinal", "outputs": ["A", "B"], "levels": 4},
        {"kind": "multilabel", "labels": ["A", "B"], "class_weights": "balanced"},
    ],
    ids=lambda kind: kind["kind"],
)
def test_missing_labels_within_a_site_work_for_every_kind(make_config, write_table, federate, kind):
    single = kind["kind"] == "classification"
    labels = {"finding": ["0", "", "1", "2"]} if single else {"A": ["0", "", "1"], "B": ["", "1"]}
    table = rows(12, **labels) + rows(4, "val", **labels) + rows(4, "test", **labels)
    other = dict(zip(ZONES, [[""], *list(ZONES.values())[1:]], strict=True))
    data = write_table(
        "partial", [r | {k: v[0] for k, v in other.items() if k not in r} for r in table]
    )
    config = make_config(
        tasks={"finding": kind, "severity": SEVERITY | {"kind": "regression"}},
        training={"rounds": 1, "local_epochs": 1, "batch_size": 3},
        sites={"both": site(data, "finding", "severity")},
    )
    out = federate(config)
    losses = lines(out / "history.jsonl")[1]["sites"]["both"]["losses"]
    assert all(np.isfinite(loss) for loss in losses.values())


def test_awkward_splits_work(make_config, write_table, federate):
    """No validation at one site, a class absent from a split, one sample in the last batch."""
    few = rows(5, prognosis=["MILD", "SEVERE"]) + rows(2, "test", prognosis="SEVERE")
    one = rows(1, prognosis="MILD") + rows(1, "val", prognosis="MILD")
    config = make_config(
        tasks={"prognosis": dict(PROGNOSIS)},
        training={"rounds": 2, "local_epochs": 1, "batch_size": 4},
        sites={
            "few": site(write_table("few", few) | {"val_fraction": 0}, "prognosis"),
            "one": site(write_table("one", one), "prognosis"),
        },
    )
    out = federate(config)
    last = json.loads((out / "metrics.json").read_text())["checkpoints"]["last"]["sites"]
    assert last["few"]["val"] == last["few"]["val"] | {"prognosis/examples": 0}
    assert last["few"]["test"]["prognosis/auroc"] is None  # one class only
    assert lines(out / "history.jsonl")[1]["sites"]["few"]["images"] == 5  # none was dropped


def poison(reply):
    record = reply.content.array_records["arrays"]
    arrays = unpack(record[BLOB].data)
    name = next(iter(arrays))
    poisoned = arrays | {name: np.full_like(arrays[name], np.nan)}
    reply.content["arrays"] = pack_record(poisoned)
    return reply


def test_a_site_with_a_bad_update_is_named_and_the_others_go_on(make_config, two_sites, federate):
    def tamper(number, message, reply):
        train = message.metadata.message_type == MessageType.TRAIN
        return poison(reply) if number == 0 and train else reply

    out = federate(make_config(sites=two_sites), tamper)
    for line in lines(out / "history.jsonl")[1:]:
        assert list(line["refusals"]) == ["clinic"]
        assert "is not finite" in line["refusals"]["clinic"]
        assert line["sites"]["hospital"]["weight"] == 1.0


def test_without_a_usable_update_the_run_fails(make_config, two_sites, federate, tmp_path):
    def tamper(number, message, reply):
        train = message.metadata.message_type == MessageType.TRAIN
        return poison(reply) if train else reply

    with pytest.raises(RunError, match="0 updates could be used"):
        federate(make_config(sites=two_sites), tamper)
    last = lines(tmp_path / "run-0" / "events.jsonl")[-1]
    assert (last["event"], last["exit_code"]) == ("failed", 1)
    assert not (tmp_path / "run-0" / "metrics.json").exists()


def test_a_repeated_round_gives_the_same_bits(make_config, two_sites, federate, tmp_path):
    """The network may deliver a round twice: the second time starts from where the first did."""
    rounds = []

    def twice(number, message, reply):
        if message.metadata.message_type != MessageType.TRAIN:
            return reply
        run_config = {"federation": str(tmp_path / "run-0" / "federation.yaml"), "overrides": ""}
        context = Context(1, 2 + number, {"partition-id": number}, RecordDict(), run_config)
        again = client_app(message, context)
        first, second = (
            unpack(r.content.array_records["arrays"][BLOB].data) for r in (reply, again)
        )
        assert same_bits(first, second)
        rounds.append(json.loads(str(message.content.config_records["config"]["order"]))["round"])
        return again

    training = {"rounds": 3, "local_steps": 2, "batch_size": 4, "optimizer": "adam"}
    config = make_config(sites=two_sites, training=training)
    repeated = federate(config, twice)
    assert rounds == [1, 1, 2, 2, 3, 3]
    assert same_bits(backbone(repeated), backbone(federate(config)))


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (
            {"prognosis": {"kind": "classification", "classes": ["SEVERE", "MILD"]}},
            "hospital: disagrees on the task prognosis: classes",
        ),
        ({"outcome": dict(PROGNOSIS)}, "hospital"),
    ],
    ids=["other classes", "unknown task"],
)
def test_the_roll_call_refuses_with_a_sentence_per_site(
    make_config, two_sites, federate, write_table, change, sentence
):
    table = rows(6, prognosis=["MILD", "SEVERE"], outcome=["MILD", "SEVERE"])
    sites = two_sites | {
        "hospital": {"dataset": write_table("h", table), "tasks": change, "device": "cpu"}
    }
    with pytest.raises(RegistrationError, match=sentence):
        federate(make_config(sites=sites))


def away(message):
    """What Flower answers for a node that is not connected any more."""
    return Message(Error(ErrorCode.NODE_UNAVAILABLE, "gone"), reply_to=message)


def test_a_site_that_is_away_at_the_roll_call_is_waited_for(make_config, two_sites, federate):
    asked = []

    def late(number, message, reply):
        asked.append(number)
        return away(message) if asked.count(0) < 3 and number == 0 else reply

    out = federate(make_config(sites=two_sites), late)
    assert set(lines(out / "history.jsonl")[1]["sites"]) == set(two_sites)


def test_a_site_that_stays_away_is_waited_for_as_long_as_the_roll_call_may_last(
    make_config, two_sites, federate
):
    def gone(number, message, reply):
        return away(message) if number == 0 else reply

    config = make_config(sites=two_sites, aggregation={"join_timeout": 0.3})
    with pytest.raises(RegistrationError, match="clinic"):
        federate(config, gone)


def test_a_site_that_lost_its_heads_goes_on_and_it_is_said(
    make_config, two_sites, federate, tmp_path
):
    def burn(number, message, reply):
        if message.metadata.message_type == MessageType.TRAIN and number == 0:
            order = json.loads(str(message.content.config_records["config"]["order"]))
            if order["round"] == 2:
                rmtree(next(p for p in tmp_path.rglob("federated") if "clinic" in p.parts))
        return reply

    training = {"rounds": 4, "local_steps": 1, "batch_size": 4}
    config = make_config(sites=two_sites, training=training)
    out = federate(config, burn)
    told = [e["message"] for e in lines(out / "events.jsonl") if e["event"] == "notice"]
    assert told == ["clinic kept nothing of the 2 rounds it trained: its heads are new"]


def test_a_task_that_nobody_labels_is_refused(make_config, two_sites, federate):
    sites = {"clinic": two_sites["clinic"]}
    with pytest.raises(
        RegistrationError, match="no site has training labels of the task prognosis"
    ):
        federate(make_config(sites=sites))


def test_sites_that_share_a_machine_are_not_late_because_they_wait_for_each_other(
    make_config, two_sites, federate
):
    """Each takes 0.7 s, both together more than the second that each has."""

    def slow(number, message, reply):
        if message.metadata.message_type == MessageType.TRAIN:
            time.sleep(0.7)
        return reply

    training = {"rounds": 1, "local_steps": 1, "round_timeout": 1}
    out = federate(make_config(sites=two_sites, training=training), slow)
    assert lines(out / "history.jsonl")[1]["refusals"] == {}


def test_a_site_that_takes_too_long_itself_is_late(make_config, two_sites, federate, monkeypatch):
    original = client.site.train

    def slow(*arguments, **options):
        time.sleep(1.2 if options["cohort"].manifest.targets.keys() == {"severity"} else 0)
        return original(*arguments, **options)

    monkeypatch.setattr("client.site.train", slow)
    training = {"rounds": 1, "local_steps": 1, "round_timeout": 1}
    out = federate(make_config(sites=two_sites, training=training))
    (late,) = lines(out / "history.jsonl")[1]["refusals"].items()
    assert late[0] == "clinic"
    assert "took 1." in late[1]


@pytest.mark.parametrize(
    ("strategy", "moments"), [("fedavg", ""), ("fedavgm", "m"), ("fedadam", "mv")]
)
def test_the_last_checkpoint_holds_the_server_optimiser(
    make_config, two_sites, federate, strategy, moments
):
    out = federate(make_config(sites=two_sites, algorithm=strategy))
    names = [n.removeprefix("algorithm.") for n in backbone(out) if n.startswith("algorithm.")]
    assert {name[0] for name in names} == set(moments)
    assert not any("running" in name for name in names)
    assert (out / "checkpoints" / "round-00002.safetensors").is_file()


def test_a_run_tells_which_data_and_versions_it_saw(make_config, write_table, federate):
    def data(seed):
        table = rows(6, prognosis=["MILD", "SEVERE"][:: 1 - 2 * seed])
        dataset = write_table(f"data-{seed}", table)
        config = make_config(
            tasks={"prognosis": dict(PROGNOSIS)}, sites={"a": site(dataset, "prognosis")}
        )
        stored = json.loads((federate(config) / "sites.json").read_text())
        assert stored["versions"]["torch"]
        assert stored["seed"] == 0
        return stored["sites"]["a"]["data"]

    assert data(0) != data(1)
