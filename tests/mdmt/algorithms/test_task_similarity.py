"""Aggregation by similarity against numbers worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest
from numpy import float32

from mdmt.algorithms import State, TaskSimilarity

W, RUNNING, HEAD = "backbone.w", "backbone.running_mean", "heads.t.weight"
START = State({W: float32([0, 0]), RUNNING: float32([0])}, optimised=(W,))


def play(algorithm, state, ends, weights=None):
    """The next state of updates by site; the weights are equal by default."""
    weights = weights or dict.fromkeys(ends, 1 / len(ends))
    return algorithm.combine_each(
        state,
        {site: {W: float32(w), RUNNING: float32([r])} for site, (w, r) in ends.items()},
        {site: {W: weight, RUNNING: weight} for site, weight in weights.items()},
    )


def of(algorithm, state, site, name=W):
    return algorithm.broadcast(state, site)[name].tolist()


def test_a_site_gets_the_mean_of_sites_that_move_like_it():
    """cos(a, b) = .8, cos(a, c) = 0, cos(b, c) = .6: rows (1, .8, 0), (.8, 1, .6), (0, .6, 1)."""
    algorithm = TaskSimilarity()
    state = play(algorithm, START, {"a": ((1, 0), 1), "b": ((8, 6), 2), "c": ((0, 1), 3)})
    assert of(algorithm, state, "a") == pytest.approx([(1 + 0.8 * 8) / 1.8, 0.8 * 6 / 1.8])
    assert of(algorithm, state, "b") == pytest.approx([(0.8 + 8) / 2.4, (6 + 0.6) / 2.4])
    assert of(algorithm, state, "c") == pytest.approx([0.6 * 8 / 1.6, (0.6 * 6 + 1) / 1.6])
    assert of(algorithm, state, "c", RUNNING) == pytest.approx([(0.6 * 2 + 3) / 1.6])
    # The common backbone, which a new site gets, is the weighted mean.
    assert of(algorithm, state, "new") == pytest.approx([3, 7 / 3])
    assert algorithm.broadcast(state, "new") is state.arrays


def test_the_next_round_measures_updates_from_the_backbone_of_each_site():
    algorithm = TaskSimilarity()
    state = play(algorithm, START, {"a": ((2, 0), 0), "b": ((0, 4), 0)})
    assert [of(algorithm, state, s) for s in "ab"] == [[2, 0], [0, 4]]  # orthogonal: both alone
    # Both move by (1, 1) now, so both get the mean of (3, 1) and (1, 5).
    state = play(algorithm, state, {"a": ((3, 1), 0), "b": ((1, 5), 0)})
    assert [of(algorithm, state, s) for s in "ab"] == [[2, 3], [2, 3]]


def test_updates_of_one_direction_are_averaged_with_the_weights_of_the_sites():
    algorithm = TaskSimilarity()
    weights = {"a": 0.75, "b": 0.25}
    state = play(algorithm, START, {"a": ((1, 0), 0), "b": ((5, 0), 0)}, weights)
    assert [of(algorithm, state, s) for s in ("a", "b", "new")] == [[2, 0]] * 3


def test_the_threshold_decides_who_counts():
    ends = {"a": ((1, 0), 0), "b": ((8, 6), 0)}  # cos = .8
    alone = play(TaskSimilarity(threshold=0.9), START, ends)
    assert of(TaskSimilarity(), alone, "a") == [1, 0]
    # Scores 1 + 1 and .8 + 1: a gets (2·1 + 1.8·8) / 3.8.
    wide = play(TaskSimilarity(threshold=-1), START, ends)
    assert of(TaskSimilarity(), wide, "a") == pytest.approx([16.4 / 3.8, 1.8 * 6 / 3.8])


def test_an_absent_site_keeps_its_backbone_and_an_update_of_zero_stays_alone():
    algorithm = TaskSimilarity()
    state = play(algorithm, START, {"a": ((2, 0), 0), "b": ((0, 0), 0)})
    assert [of(algorithm, state, s) for s in "ab"] == [[2, 0], [0, 0]]
    state = play(algorithm, state, {"b": ((0, 7), 0)})
    assert [of(algorithm, state, s) for s in "ab"] == [[2, 0], [0, 7]]
    assert of(algorithm, state, "new") == [0, 7]


def test_shared_heads_get_the_mean_and_local_norms_stay():
    norm = "backbone.norm.weight"
    state = State({W: float32([0]), norm: float32([9]), HEAD: float32([5])}, optimised=(W,))
    ends = {"a": {W: float32([2]), HEAD: float32([1])}, "b": {W: float32([-2]), HEAD: float32([3])}}
    weights = {site: {W: 0.5, HEAD: 0.5} for site in "ab"}
    algorithm = TaskSimilarity()
    state = algorithm.combine_each(state, ends, weights)
    found = algorithm.broadcast(state, "b")
    assert {name: array.item() for name, array in found.items()} == {W: -2, norm: 9, HEAD: 2}
    assert all(array.dtype == np.float32 for array in found.values())
