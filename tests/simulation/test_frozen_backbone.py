"""Federations that train a part of the backbone (`model.trainable`): what travels, what changes."""

from __future__ import annotations

import json

import numpy as np
import pytest
from builders import synthetic_site
from flwr.app import MessageType
from safetensors.numpy import load_file

from client import frozen_arrays
from mdmt.blob import BLOB, describe
from mdmt.errors import ConfigError
from mdmt.frozen import FROZEN
from mdmt.models import build_model, frozen_names, get_arrays

MODEL = {"backbone": "test_resnet", "image_size": 32, "trainable": {"last_blocks": 1}}
SHORT = {"rounds": 2, "local_steps": 1, "batch_size": 4}


def last_round(out):
    return load_file(out / "checkpoints" / "round-00002.safetensors")


def changed(config, out):
    """Names of the arrays after the last round that are not the initial ones, and the model."""
    shared = tuple(config.tasks) if config.aggregation.heads == "shared" else ()
    model, found = build_model(config, shared, weights=False), last_round(out)
    initial = get_arrays(model, found)
    floats = {n for n, t in model.state_dict().items() if t.is_floating_point()}
    assert found.keys() == {n for n in floats if n.startswith("backbone.") or shared}
    return {n for n, v in found.items() if not np.array_equal(v, initial[n])}, model


def test_frozen_arrays_do_not_change_and_are_never_sent(make_config, two_sites, federate):
    config = make_config(sites=two_sites, model=MODEL, training=SHORT, references=["local"])
    seen = {}

    def record(number, message, reply):
        for content in (message.content, reply.content):
            for arrays in content.array_records.values():
                assert set(arrays) == {BLOB}
                sent = set(describe(arrays[BLOB].data))
                seen.setdefault(message.metadata.message_type, set()).update(sent)
        return reply

    out = federate(config, record)
    found, model = changed(config, out)
    frozen = frozen_names(model, config.aggregation)
    trained = {n for n, t in model.state_dict().items() if t.is_floating_point()} - frozen
    assert {kind for kind in seen if seen[kind]} == {"train", "evaluate", "evaluate.reference"}
    assert all(names == trained for names in seen.values() if names)
    assert found
    assert found <= trained
    release = json.loads((out / "release" / "release.json").read_text())
    for number in release["rounds"].values():  # a release is a whole backbone
        file = out / "release" / f"backbone-{number:05d}.safetensors"
        assert load_file(file).keys() == trained | {
            n for n in frozen if model.state_dict()[n].is_floating_point()
        }


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({"wire": {"up": "int8", "down": "float16"}}, marks=pytest.mark.slow),
        {"privacy": {"secure_aggregation": True}, "aggregation": {"norm_layers": "frozen"}},
    ],
    ids=["rounded", "secure"],
)
def test_a_site_that_lost_the_frozen_arrays_gets_them_once(
    make_config, two_sites, tmp_path, federate, monkeypatch, changes
):
    """The sites cannot build them here, as with weights that they do not have."""
    sites = two_sites | {"ward": synthetic_site(tmp_path, "prognosis", seed=1)}
    config = make_config(sites=sites, model=MODEL, training=SHORT, **changes)
    undisturbed = last_round(federate(config))

    monkeypatch.setattr(frozen_arrays, "_built", lambda federation, weights: None)
    frozen_arrays._HELD.clear()
    got = []

    def lose(number, message, reply):
        """Site 0 loses its state after round 1."""
        if message.metadata.message_type != MessageType.TRAIN:
            return reply
        order = json.loads(str(message.content.config_records["config"]["order"]))
        got.append((order["round"], number, FROZEN in message.content.array_records["arrays"]))
        if order["round"] == 1 and number == 2:
            frozen_arrays._HELD.clear()
            for file in tmp_path.glob("run-1/sites/clinic/**/frozen-*"):
                file.unlink()
        return reply

    out = federate(config, lose)
    assert got[:3] == [(1, number, True) for number in range(3)]
    assert sorted(got[3:]) == [(2, 0, False), (2, 0, True), (2, 1, False), (2, 2, False)]
    found = last_round(out)
    assert all(np.array_equal(found[name], array) for name, array in undisturbed.items())
    events = (out / "events.jsonl").read_text()
    assert "clinic says 'missing frozen arrays'; the server sends them" in events


def test_shared_heads_on_a_frozen_backbone_are_a_federated_probe(make_config, two_sites, federate):
    config = make_config(
        sites=two_sites, model=MODEL | {"trainable": "none"}, aggregation={"heads": "shared"}
    )
    found, _ = changed(config, federate(config))
    assert {name.partition(".")[0] for name in found} == {"heads"}


def test_a_federation_that_would_average_nothing_is_refused(make_config, two_sites, federate):
    model = MODEL | {"trainable": "none"}
    with pytest.raises(ConfigError, match=r"nothing would be averaged: .*use heads: shared"):
        federate(make_config(sites=two_sites, model=model))
