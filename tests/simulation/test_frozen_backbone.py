"""Federations that train a part of the backbone (`model.trainable`)."""

from __future__ import annotations

import json

import numpy as np
import pytest
from safetensors.numpy import load_file

from mdmt.errors import ConfigError
from mdmt.models import build_model, frozen_names, get_arrays


def changed(config, out):
    """Names of the arrays after the last round that are not the initial ones."""
    shared = tuple(config.tasks) if config.aggregation.heads == "shared" else ()
    model = build_model(config, shared, weights=False)
    found = load_file(out / "checkpoints" / "round-00002.safetensors")
    initial = get_arrays(model, found)
    floats = {n for n, t in model.state_dict().items() if t.is_floating_point()}
    assert found.keys() == {n for n in floats if n.startswith("backbone.") or shared}
    return {n for n, v in found.items() if not np.array_equal(v, initial[n])}, model


def test_frozen_arrays_keep_their_initial_values_and_do_not_come_back(
    make_config, two_sites, federate
):
    model = {"backbone": "test_resnet", "image_size": 32, "trainable": {"last_blocks": 1}}
    config = make_config(sites=two_sites, model=model, references=["local"])
    out = federate(config)
    found, model = changed(config, out)
    frozen = frozen_names(model, config.aggregation)
    assert found
    assert not found & frozen
    arrays = get_arrays(model, [n for n, t in model.state_dict().items() if t.is_floating_point()])
    whole = sum(array.nbytes for array in arrays.values())
    travelling = whole - sum(v.nbytes for n, v in arrays.items() if n in frozen)
    for line in (out / "history.jsonl").read_text().splitlines()[1:]:
        for facts in json.loads(line)["sites"].values():
            assert travelling * 0.9 < facts["bytes_up"] < travelling + 10_000 < whole


def test_shared_heads_on_a_frozen_backbone_are_a_federated_probe(make_config, two_sites, federate):
    model = {"backbone": "test_resnet", "image_size": 32, "trainable": "none"}
    config = make_config(sites=two_sites, model=model, aggregation={"heads": "shared"})
    found, _ = changed(config, federate(config))
    assert {name.partition(".")[0] for name in found} == {"heads"}


def test_a_federation_that_would_average_nothing_is_refused(make_config, two_sites, federate):
    model = {"backbone": "test_resnet", "image_size": 32, "trainable": "none"}
    with pytest.raises(ConfigError, match=r"nothing would be averaged: .*use heads: shared"):
        federate(make_config(sites=two_sites, model=model))
