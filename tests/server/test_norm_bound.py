"""The bound on the length of updates, against numbers worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest
from numpy import float32

from mdmt.algorithms import State
from server.norm_bound import find_large, per_root_step, remember, shorten

W = "backbone.w"
STATE = State({W: np.zeros(4, float32)}, optimised=(W,))
EQUAL = {"a": {"backbone": 1.0}, "b": {"backbone": 1.2}, "c": {"backbone": 0.9}}


@pytest.fixture
def config(make_config):
    return lambda **changes: make_config(aggregation=changes)


def large(config, lengths, history=(), state=STATE):
    found = {site: {"backbone": length} for site, length in lengths.items()}
    return find_large(config, found, state, list(history))


def test_a_boosted_update_and_a_huge_one_are_found_and_honest_ones_are_not(config):
    assert not large(config(), {"a": 1.0, "b": 1.2, "c": 0.9}).reasons
    for length in (20.0, 9e5):
        found = large(config(), {"a": 1.0, "b": 1.2, "c": length})
        assert list(found.reasons) == ["c"]
    # The lower median of 1, 1.2 and 20 is 1.2: 15 times as long is 18.
    found = large(config(), {"a": 1.0, "b": 1.2, "c": 20.0})
    assert found.factors == {"c": {"backbone": pytest.approx(18 / 20)}}
    assert found.reasons["c"] == (
        "its update of the backbone is 1.11 times as long as aggregation.norm_bound 15 allows"
    )


def test_of_two_updates_the_shorter_one_is_the_reference(config):
    assert list(large(config(), {"a": 1.0, "b": 15.1}).reasons) == ["b"]
    assert not large(config(), {"a": 1.0, "b": 14.9}).reasons


def test_a_minority_of_long_updates_cannot_raise_the_reference(config):
    lengths = {"a": 1.0, "b": 1.1, "c": 1.2, "x": 1e3, "y": 1e6}
    assert set(large(config(), lengths).reasons) == {"x", "y"}


def test_a_single_update_is_compared_with_the_rounds_before_or_with_the_model(config):
    history = [{"a": {"backbone": 1.0}}, {"a": {"backbone": 0.5}, "b": {"backbone": 0.6}}]
    assert not large(config(), {"b": 8.9}, history).reasons
    assert list(large(config(), {"b": 9.1}, history).reasons) == ["b"]  # 15 · .6
    model = State({W: np.full(4, 2, float32)}, optimised=(W,))  # ‖θ‖ = 4
    assert not large(config(), {"b": 399.0}, state=model).reasons
    assert list(large(config(), {"b": 401.0}, state=model).reasons) == ["b"]
    assert list(large(config(), {"b": 9e5}, state=model).reasons) == ["b"]


def test_longer_updates_of_all_sites_are_not_refused_because_former_ones_were_short(config):
    assert not large(config(), {"a": 100.0, "b": 120.0}, [EQUAL]).reasons


def test_an_update_that_hardly_moves_the_model_is_not_large(config):
    model = State({W: np.full(4, 50, float32)}, optimised=(W,))  # ‖θ‖ = 100
    assert not large(config(), {"a": 1e-6, "b": 0.49}, state=model).reasons
    assert list(large(config(), {"a": 1e-6, "b": 0.51}, state=model).reasons) == ["b"]


def test_a_site_that_did_not_train_a_head_is_no_reference_for_it(config):
    head = "heads.t.weight"
    state = State({head: np.zeros(2, float32)})
    found = {"a": {"heads.t": 0.0}, "b": {"heads.t": 1.0}, "c": {"heads.t": 2.0}}
    assert not find_large(config(), found, state, []).reasons


def test_running_statistics_may_change_as_much_as_they_are_long(config):
    state = State({"backbone.bn.running_mean": np.full(4, 0.5, float32)})  # ‖·‖ = 1
    found = {"a": {"statistics": 1e-3}, "b": {"statistics": 0.99}}
    assert not find_large(config(), found, state, []).reasons
    found["b"]["statistics"] = 1.01
    assert list(find_large(config(), found, state, []).reasons) == ["b"]


def test_without_a_bound_nothing_is_large(config):
    assert not large(config(norm_bound=None), {"a": 1.0, "b": 1e9}).reasons


def test_the_norm_is_per_root_of_the_steps_that_the_site_takes(make_config, make_card):
    config = make_config(training={"rounds": 1, "local_epochs": 2, "batch_size": 10})
    a, b = make_card(config, "a", prognosis=1), make_card(config, "b", prognosis=1)
    cards = {
        "a": a.model_copy(update={"images": {"train": 20}}),  # 4 steps
        "b": b.model_copy(update={"images": {"train": 500}}),  # 100 steps
        "c": a.model_copy(update={"name": "c", "images": {"train": None}}),
    }
    found = {site: {"backbone": 10.0} for site in cards}
    scaled = per_root_step(config, cards, found)
    assert {site: own["backbone"] for site, own in scaled.items()} == {"a": 5, "b": 1, "c": 5}


def test_former_rounds_count_what_was_used(config):
    scaled = {"a": {"backbone": 1.0}, "b": {"backbone": 1.0}, "c": {"backbone": 30.0}}
    bounded = find_large(config(), scaled, STATE, [])
    honest = {"a": {"backbone": 1.0}, "b": {"backbone": 1.0}}
    assert remember([], scaled, bounded, clip=False) == [honest]
    assert remember([], scaled, bounded, clip=True) == [honest | {"c": {"backbone": 15.0}}]
    assert (
        len(remember([honest] * 3, honest, find_large(config(), honest, STATE, []), clip=False))
        == 3
    )


def test_a_clipped_update_keeps_its_direction():
    sent = {W: float32([1, 1]), "backbone.running_mean": float32([0])}
    update = {W: float32([4, 5]), "backbone.running_mean": float32([8])}
    short = shorten(update, sent, {"backbone": 0.2}, (W,))
    assert short[W] == pytest.approx([1.6, 1.8])  # (3, 4) has the length 5, now 1
    assert short["backbone.running_mean"].tolist() == [8]
    assert short[W].dtype == np.float32
