"""Robust rules against numbers worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest
from numpy import float32

from mdmt.algorithms import Median, State, TrimmedMean, robust
from mdmt.algorithms.robust import mean_of_middle

W, VAR, HEAD = "backbone.w", "backbone.bn.running_var", "heads.t.weight"


def combine(rule, values, state=None):
    """The next state of updates `values`: site → array → value; every site has a weight."""
    updates = {s: {n: float32(v) for n, v in own.items()} for s, own in values.items()}
    weights = {s: dict.fromkeys(own, 1 / len(values)) for s, own in updates.items()}
    names = {name for own in updates.values() for name in own}
    return rule.combine_each(state or State({n: float32([0]) for n in names}), updates, weights)


def column(*values):
    return {f"s{number}": {W: [value]} for number, value in enumerate(values)}


def test_the_median_takes_the_middle_value_of_each_number():
    values = {"a": {W: [1, 30]}, "b": {W: [2, 10]}, "c": {W: [900, 20]}}
    state = combine(Median(), values, State({W: float32([0, 0])}))
    assert state.arrays[W].tolist() == [2, 20]
    assert state.arrays[W].dtype == np.float32


def test_of_an_even_number_of_sites_it_is_the_mean_of_two():
    assert combine(Median(), column(1, 9e5, 4, 2)).arrays[W].tolist() == [3]
    assert combine(TrimmedMean(), column(1, 9e5, 4, 2)).arrays[W].tolist() == [3]


def test_the_trimmed_mean_leaves_out_the_ends():
    # 1 and 100 go; (2 + 3 + 7) / 3 = 4. With two at each end only 3 stays.
    assert combine(TrimmedMean(), column(3, 100, 1, 7, 2)).arrays[W].tolist() == [4]
    assert combine(TrimmedMean(trim=2), column(3, 100, 1, 7, 2)).arrays[W].tolist() == [3]


def test_weights_do_not_count():
    updates = {s: {W: float32([v])} for s, v in {"a": 1, "b": 2, "x": 50}.items()}
    weights = {"a": {W: 1e-9}, "b": {W: 1e-9}, "x": {W: 1.0}}
    assert Median().combine_each(State({W: float32([0])}), updates, weights).arrays[W] == [2]


def test_running_statistics_are_combined_too_and_other_arrays_stay():
    values = {s: {W: [1], VAR: [v]} for s, v in {"a": 1, "b": 2, "x": 1e6}.items()}
    start = State({W: float32([0]), VAR: float32([9]), HEAD: float32([5])}, memory={"m": W})
    state = combine(Median(), values, start)
    assert state.arrays[VAR].tolist() == [2]
    assert state.arrays[HEAD].tolist() == [5]
    assert state.memory == start.memory


def test_a_shared_head_is_combined_over_the_sites_that_have_a_weight_for_it():
    values = {s: {W: [1], HEAD: [v]} for s, v in {"a": 1, "b": 2, "c": 9}.items()}
    values["d"] = {W: [1]}
    assert combine(Median(), values).arrays[HEAD].tolist() == [2]
    assert combine(TrimmedMean(trim=3), values).arrays[HEAD].tolist() == [2]
    updates = {s: {n: float32(v) for n, v in own.items()} for s, own in values.items()}
    weights = {s: {W: 0.25} for s in values} | {"a": {W: 0.25, HEAD: 1.0}}
    state = State({W: float32([0]), HEAD: float32([0])})
    assert Median().combine_each(state, updates, weights).arrays[HEAD].tolist() == [1]


@pytest.mark.parametrize("rule", [Median(), TrimmedMean(trim=2)], ids=lambda rule: rule.name)
def test_every_number_stays_between_honest_ones_whatever_a_minority_sends(rule):
    rng = np.random.default_rng(0)
    honest = rng.normal(size=(3, 200)).astype(np.float32)
    for bad in (np.full((2, 200), 9e5), np.full((2, 200), -1e30), rng.normal(size=(2, 200)) * 20):
        rows = rng.permutation(np.concatenate([honest, bad.astype(np.float32)]))
        values = {f"s{number}": {W: row} for number, row in enumerate(rows)}
        found = combine(rule, values, State({W: honest[0]})).arrays[W]
        assert np.all((honest.min(axis=0) <= found) & (found <= honest.max(axis=0)))


def test_long_arrays_are_combined_in_pieces_and_in_any_order(monkeypatch):
    rows = np.random.default_rng(0).normal(size=(4, 3, 5)).astype(np.float32)
    whole = mean_of_middle(list(rows), 1)
    assert np.allclose(whole, np.median(rows, axis=0))
    monkeypatch.setattr(robust, "_PIECE", 8)
    assert np.array_equal(mean_of_middle(list(rows[::-1]), 1), whole)
    scalar = mean_of_middle([np.array(v, np.float32) for v in (1, 5, 2)], 1)
    assert (scalar.shape, float(scalar)) == ((), 2)


def test_equal_updates_keep_their_bits():
    update = np.random.default_rng(0).normal(size=1000).astype(np.float32)
    for n in (3, 4, 7):
        assert np.array_equal(mean_of_middle([update] * n, 1), update)


def test_a_rule_says_how_many_sites_it_needs():
    assert [r.fewest_updates for r in (Median(), TrimmedMean(), TrimmedMean(trim=3))] == [3, 3, 7]
