"""Conflict-averse aggregation against numbers worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest
from numpy import float32

from mdmt.algorithms import ConflictAverse, State
from mdmt.algorithms.conflict_averse import step_factors

W, RUNNING, HEAD = "backbone.w", "backbone.running_mean", "heads.t.weight"


def combine(fraction, start=(0, 0), **updates):
    """The next w of updates by site, with equal weights."""
    state = State({W: float32(start)}, optimised=(W,))
    arrays = {site: {W: float32(end)} for site, end in updates.items()}
    weights = {site: {W: 1 / len(updates)} for site in updates}
    return ConflictAverse(c=fraction).combine_each(state, arrays, weights).arrays[W]


def test_the_site_that_gains_least_gains_more():
    """Δ_a = (6, 0) and Δ_b = (0, 8), so Δ̄ = (3, 4) and ‖Δ̄‖ = 5. Let c = .4.

    F(x) = 18x + 32(1 - x) + 2·√(36x² + 64(1 - x)²) falls up to x = 1: there F' = -14 + 2·6 < 0.
    So U = (6, 0), and d = ((3, 4) + 2·(1, 0)) / 1.4 = (5, 4) / 1.4.
    """
    assert combine(0.4, a=(6, 0), b=(0, 8)) == pytest.approx(np.array([5, 4]) / 1.4, rel=1e-6)
    # The same from another θ_r.
    moved = combine(0.4, (1, 2), a=(7, 2), b=(1, 10))
    assert moved == pytest.approx(np.array([1, 2]) + np.array([5, 4]) / 1.4, rel=1e-6)


def test_updates_against_each_other_make_the_step_shorter():
    """Δ_a = 4 and Δ_b = -2, so Δ̄ = 1. F = U + .5·|U| is least at U = -2: d = (1 - .5) / 1.5."""
    assert combine(0.5, start=(0,), a=(4,), b=(-2,)) == pytest.approx([1 / 3])


def test_equal_updates_give_the_step_of_fedavg():
    assert combine(0.4, a=(3, 4), b=(3, 4), c=(3, 4)) == pytest.approx([3, 4])
    assert combine(0.9, a=(3, 4)) == pytest.approx([3, 4])


def test_updates_that_cancel_or_stand_still_give_the_mean():
    assert combine(0.4, a=(2, 0), b=(-2, 0)).tolist() == [0, 0]
    assert combine(0.4, a=(2, 0), b=(0, 0)) == pytest.approx([1, 0])  # U = 0 is the minimum


def test_the_scale_of_updates_does_not_matter_and_the_step_is_never_longer_than_the_mean():
    rng = np.random.default_rng(0)
    for sites in (2, 3, 9):
        deltas = rng.normal(size=(sites, 30)) * rng.uniform(0.1, 10, size=(sites, 1))
        weights = rng.dirichlet(np.ones(sites))
        gram = deltas @ deltas.T
        factors = step_factors(gram, weights, 0.4)
        assert step_factors(gram * 1e-12, weights, 0.4) == pytest.approx(factors, abs=1e-6)
        step, mean = factors @ deltas, weights @ deltas
        assert np.linalg.norm(step) <= np.linalg.norm(mean) * (1 + 1e-9)
        # Within its distance from the mean, the site that gains least gains more than by the mean.
        assert (deltas @ step * 1.4).min() >= (deltas @ mean).min() - 1e-9
        for other in rng.normal(size=(200, 30)):
            near = mean + 0.4 * np.linalg.norm(mean) * other / np.linalg.norm(other)
            assert (deltas @ near).min() <= (deltas @ step * 1.4).min() + 1e-6


def test_other_arrays_get_the_weighted_mean():
    start = {W: float32([0]), RUNNING: float32([0]), HEAD: float32([5])}
    ends = {"a": {W: float32([1]), RUNNING: float32([4]), HEAD: float32([7])}}
    ends["b"] = {W: float32([1]), RUNNING: float32([8])}
    weights = {"a": {W: 0.75, RUNNING: 0.75, HEAD: 1.0}, "b": {W: 0.25, RUNNING: 0.25}}
    state = ConflictAverse().combine_each(State(start, optimised=(W,)), ends, weights)
    assert {name: array.tolist() for name, array in state.arrays.items()} == {
        W: [1],
        RUNNING: [5],  # .75·4 + .25·8
        HEAD: [7],
    }
    assert all(array.dtype == np.float32 for array in state.arrays.values())
