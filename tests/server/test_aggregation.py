"""The weighted mean, and what may enter it."""

from __future__ import annotations

import weakref

import numpy as np
import pytest

from mdmt.errors import Refused
from server import aggregation
from server.aggregation import check_update, weighted_mean

VAR = "backbone.bn.running_var"
SENT = {
    "w": np.zeros((2, 2), np.float32),
    "b": np.zeros(2, np.float32),
    VAR: np.ones(2, np.float32),
}


def test_the_mean_is_weighted_and_keeps_the_dtype():
    a, b = {"w": np.float32([1, 2])}, {"w": np.float32([5, 6])}
    mean = weighted_mean([(a, {"w": 0.25}), (b, {"w": 0.75})])
    assert mean["w"].dtype == np.float32
    assert mean["w"].tolist() == [4.0, 5.0]


def test_averaging_equal_updates_changes_no_bit():
    update = {"w": np.random.default_rng(0).normal(size=1000).astype(np.float32)}
    assert np.array_equal(
        weighted_mean([(update, {"w": w}) for w in (0.2, 0.3, 0.5)])["w"], update["w"]
    )


def test_float64_updates_are_averaged_in_float64():
    mean = weighted_mean(
        [({"w": np.array([1 / 3])}, {"w": 0.5}), ({"w": np.array([2 / 3])}, {"w": 0.5})]
    )
    assert mean["w"][0] == pytest.approx(0.5, abs=1e-15)


def test_an_array_that_not_all_updates_have_has_weights_of_its_own():
    updates = [{"w": np.float32([1]), "h": np.float32([8])}, {"w": np.float32([3])}]
    mean = weighted_mean(zip(updates, [{"w": 0.5, "h": 1.0}, {"w": 0.5}], strict=True))
    assert {name: array.tolist() for name, array in mean.items()} == {"w": [2.0], "h": [8.0]}


def test_an_array_that_no_update_has_a_weight_for_is_left_out():
    """The head of a task whose only accepted site has no training label of it."""
    update = {"w": np.float32([1]), "h": np.float32([8])}
    assert list(weighted_mean([(update, {"w": 1.0})])) == ["w"]


def test_arrays_without_an_axis_and_strided_ones_are_averaged_too():
    strided = np.arange(6, dtype=np.float32).reshape(2, 3).T
    update = {"scale": np.array(1, np.float32), "w": strided}
    mean = weighted_mean([(update, dict.fromkeys(update, w)) for w in (0.25, 0.25, 0.5)])
    assert mean["scale"].shape == ()
    assert mean["scale"] == 1
    assert np.array_equal(mean["w"], strided)


def test_long_arrays_are_added_up_in_pieces_to_the_last_number(monkeypatch):
    monkeypatch.setattr(aggregation, "_PIECE", 4)
    update = {"w": np.arange(10.0)}
    assert weighted_mean([(update, {"w": 0.25}), (update, {"w": 0.75})])["w"].tolist() == list(
        range(10)
    )


def test_updates_are_taken_one_at_a_time_and_not_changed():
    alive = []

    def updates():
        for value in (1.0, 2.0, 3.0):
            update = {"w": np.full(4, value, np.float32)}
            update["w"].flags.writeable = False
            alive.append(weakref.ref(update["w"]))
            assert sum(ref() is not None for ref in alive) <= 2
            yield update

    weights = [{"w": w} for w in (0.5, 0.25, 0.25)]
    assert weighted_mean(zip(updates(), weights, strict=True))["w"].tolist() == [1.75] * 4


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"w": None}, "array w is missing"),
        ({"head.weight": np.zeros(1, np.float32)}, "array head.weight was not asked for"),
        ({"w": np.zeros((2, 3), np.float32)}, r"array w is float32 [2, 3], not float32 [2, 2]"),
        ({"w": np.zeros((2, 2), np.float64)}, r"array w is float64 [2, 2], not float32 [2, 2]"),
        ({"b": np.float32([0, np.nan])}, "array b is not finite"),
        ({"b": np.float32([np.inf, -np.inf])}, "array b is not finite"),
        ({VAR: np.float32([1, -0.1])}, f"array {VAR} holds a negative variance"),
    ],
)
def test_an_unfit_update_is_refused_with_the_reason(change, reason):
    received = {name: value for name, value in (SENT | change).items() if value is not None}
    with pytest.raises(Refused) as refused:
        check_update(received, SENT, {"w"})
    assert str(refused.value) == reason


def test_an_update_is_measured_in_groups():
    sent = SENT | {"heads.t.weight": np.float32([1])}
    received = {
        "w": np.float32([[1, 1], [1, 1]]),
        "b": np.float32([3, 0]),
        VAR: np.float32([1, 5]),
        "heads.t.weight": np.float32([1]),
    }
    found = check_update(received, sent, {"w"})
    assert found == {"backbone": 2.0, "statistics": 5.0, "heads.t": 0.0}


def test_the_largest_numbers_have_a_norm():
    assert check_update({"w": np.float32([3e38])}, {"w": np.float32([0])}, {"w"})[
        "backbone"
    ] == pytest.approx(3e38, rel=1e-6)


def test_a_long_array_is_measured_in_pieces(monkeypatch):
    monkeypatch.setattr(aggregation, "_PIECE", 4)
    found = check_update({"w": np.arange(10.0)}, {"w": np.zeros(10)}, {"w"})
    assert found == {"backbone": pytest.approx(np.sqrt(285))}
