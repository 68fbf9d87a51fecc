"""The cosines of updates: by hand, and for arrays that are sampled."""

from __future__ import annotations

import numpy as np
import pytest
from numpy import float32

from server.cosines import cosines, direction

W, RUNNING = "backbone.w", "backbone.running_mean"


def of(*values, start=(0, 0), running=0.0):
    sent = {W: float32(start), RUNNING: float32([0])}
    return direction({W: float32(values), RUNNING: float32([running])}, sent, {W})


def test_three_updates_by_hand():
    found = cosines({"c": of(0, 1), "a": of(3, 0, running=9), "b": of(8, 6)})
    assert found == {"a": {"b": 0.8, "c": 0.0}, "b": {"c": 0.6}}
    assert list(found) == ["a", "b"]


def test_updates_are_measured_from_what_each_site_got():
    found = cosines({"a": of(1, 5, start=(0, 5)), "b": of(3, 2, start=(4, 2))})
    assert found == {"a": {"b": -1.0}}


def test_an_update_of_zero_has_no_direction():
    assert cosines({"a": of(0, 0), "b": of(1, 0)}) == {"a": {"b": None}}
    assert cosines({"a": of(1, 0)}) == {}


def test_large_arrays_are_sampled_without_a_bias_against_small_ones():
    """One large and one small array with equal norms: the cosine is the mean of both, .5 and 1."""
    rng = np.random.default_rng(0)
    size, small = 400_000, rng.normal(size=50)
    one, other = rng.normal(size=(2, size))
    mixed = 0.5 * one + np.sqrt(0.75) * other
    small *= np.linalg.norm(one) / np.linalg.norm(small)
    sent = {"large": np.zeros(size, float32), "small": np.zeros(50, float32)}
    updates = [{"large": float32(large), "small": float32(small)} for large in (one, mixed)]
    a, b = (direction(update, sent, set(sent)) for update in updates)
    assert len(a) == 2048 + 50
    assert cosines({"a": a, "b": b})["a"]["b"] == pytest.approx(0.75, abs=0.02)
