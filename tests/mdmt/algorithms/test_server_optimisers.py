"""Two rounds of every algorithm at the server, with numbers worked out by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
from numpy import float32

from mdmt.algorithms import FedAdam, FedAvg, FedAvgM, FedProx, FedYogi, State, algorithms

W, RUNNING = "backbone.w", "backbone.running_mean"
ALL = [algorithms[name]() for name in ("fedavg", "fedprox", "fedavgm", "fedadam", "fedyogi")]


def begin(w):
    return State({W: float32([w]), RUNNING: float32([0])}, optimised=(W,))


def play(algorithm, state, mean, running=0.0):
    """A round in which the weighted mean of the sites is `mean`."""
    return algorithm.combine(state, {W: float32([mean]), RUNNING: float32([running])})


def value(state):
    return state.arrays[W].item()


@pytest.mark.parametrize("algorithm", [FedAvg(), FedProx(mu=0.5)], ids=lambda a: a.name)
def test_fedavg_and_fedprox_take_the_mean(algorithm):
    state = play(algorithm, begin(1.0), 3.5)
    assert value(state) == 3.5
    assert value(play(algorithm, state, 3.0)) == 3.0


def test_fedavgm_two_rounds():
    algorithm = FedAvgM(lr=1.0, momentum=0.5)
    # m = 3.5 - 1 = 2.5, w = 3.5; then m = .5·2.5 + (3 - 3.5) = .75, w = 4.25
    state = play(algorithm, begin(1.0), 3.5)
    assert value(state) == 3.5
    assert value(play(algorithm, state, 3.0)) == 4.25


def test_fedadam_two_rounds():
    algorithm = FedAdam(lr=0.1, beta_1=0.5, beta_2=0.75, tau=1.0)
    # Δ = 2: m = 1, v = .75·τ² + .25·4 = 1.75, w = 1 + .1·1 / (√1.75 + 1)
    state = play(algorithm, begin(1.0), 3.0)
    first = 1 + 0.1 / (math.sqrt(1.75) + 1)
    assert value(state) == pytest.approx(first, rel=1e-6)
    # Δ = 2 again: m = .5 + 1 = 1.5, v = .75·1.75 + .25·4 = 2.3125
    state = play(algorithm, state, value(state) + 2)
    assert value(state) == pytest.approx(first + 0.15 / (math.sqrt(2.3125) + 1), rel=1e-6)


def test_fedyogi_two_rounds():
    algorithm = FedYogi(lr=0.1, beta_1=0.5, beta_2=0.75, tau=1.0)
    # Δ = 2, v = τ² = 1 < Δ² = 4: v = 1 + .25·4 = 2, m = 1
    state = play(algorithm, begin(1.0), 3.0)
    first = 1 + 0.1 / (math.sqrt(2) + 1)
    assert value(state) == pytest.approx(first, rel=1e-6)
    # Δ = 1, v = 2 > Δ² = 1: v = 2 - .25·1 = 1.75, m = .5·1 + .5·1 = 1
    state = play(algorithm, state, value(state) + 1)
    assert value(state) == pytest.approx(first + 0.1 / (math.sqrt(1.75) + 1), rel=1e-6)


@pytest.mark.parametrize("algorithm", ALL, ids=lambda a: a.name)
def test_running_statistics_get_the_plain_mean(algorithm):
    state = play(algorithm, begin(1.0), 3.5, running=7.0)
    assert state.arrays[RUNNING].tolist() == [7.0]
    assert play(algorithm, state, 3.5, running=0.5).arrays[RUNNING].tolist() == [0.5]


@pytest.mark.parametrize("algorithm", ALL, ids=lambda a: a.name)
def test_memory_is_named_after_its_array_and_arrays_keep_their_dtype(algorithm):
    state = play(algorithm, begin(1.0), 3.5)
    keys = {"fedavgm": {"m"}, "fedadam": {"m", "v"}, "fedyogi": {"m", "v"}}
    assert set(state.memory) == {f"{key}.{W}" for key in keys.get(algorithm.name, ())}
    assert all(array.dtype == np.float32 for array in state.arrays.values())


@pytest.mark.parametrize("algorithm", ALL, ids=lambda a: a.name)
def test_an_array_without_a_mean_stays(algorithm):
    """The shared head of a task that no accepted site has labels for."""
    head = "heads.t.weight"
    state = State({**begin(1.0).arrays, head: float32([9])}, optimised=(W,))
    assert play(algorithm, state, 3.5).arrays[head].tolist() == [9]
