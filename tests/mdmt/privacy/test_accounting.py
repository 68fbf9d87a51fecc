"""ε by the accountant."""

from __future__ import annotations

import math
import sys

import pytest

from mdmt.errors import ConfigError
from mdmt.privacy import accounting
from mdmt.privacy.accounting import Mechanism, epsilon, private_steps, recipe_mechanism


def test_epsilon_of_a_published_setting():
    """1000 steps, q = .01, σ = 1.1, δ = 1e-5: ε = 1.71 by RDP."""
    assert epsilon([Mechanism(0.01, 1.1, 1000)], 1e-5) == pytest.approx(1.71, abs=0.005)


def test_one_step_without_sampling_is_the_gaussian_mechanism():
    """q = 1: the Rényi divergence is α/(2σ²), so ε can be computed by hand."""
    sigma, delta = 2.0, 1e-5
    by_hand = min(
        a / (2 * sigma**2) - (math.log(delta) + math.log(a)) / (a - 1) + math.log((a - 1) / a)
        for a in accounting._ORDERS
    )
    assert epsilon([Mechanism(1.0, sigma, 1)], delta) == pytest.approx(by_hand, rel=1e-6)


def test_mechanisms_add_up():
    parts = [Mechanism(0.1, 2.0, 30), Mechanism(0.2, 3.0, 5), Mechanism(0.1, 2.0, 20)]
    joined = [Mechanism(0.2, 3.0, 5), Mechanism(0.1, 2.0, 50)]
    assert epsilon(parts, 1e-5) == pytest.approx(epsilon(joined, 1e-5))
    assert epsilon(parts, 1e-5) > epsilon(parts[:2], 1e-5)
    assert epsilon([], 1e-5) == 0


@pytest.mark.parametrize(
    "more",
    [
        {"sample_rate": 0.2},
        {"steps": 200},
        {"noise_multiplier": 0.9},
    ],
)
def test_epsilon_grows_with_every_risk(more):
    base = Mechanism(0.1, 1.0, 100)
    assert epsilon([base._replace(**more)], 1e-5) > epsilon([base], 1e-5)
    assert epsilon([base], 1e-6) > epsilon([base], 1e-5)


def test_without_opacus_the_message_says_how_to_install_it(monkeypatch):
    accounting._rdp_of_a_step.cache_clear()
    monkeypatch.setitem(sys.modules, "opacus.accountants.analysis", None)
    with pytest.raises(ConfigError, match=r'needs Opacus: pip install "mdmt\[dp\]"$'):
        epsilon([Mechanism(0.1, 1.0, 1)], 1e-5)


@pytest.mark.parametrize(
    ("training", "steps"), [({"local_steps": 7}, 7), ({"local_epochs": 2}, 8), ({}, 4)]
)
def test_the_steps_of_a_recipe(make_config, training, steps):
    config = make_config(
        training={"rounds": 5} | training,
        privacy={"dp": {"noise_multiplier": 1.0, "sample_rate": 0.3}},
        aggregation={"weighting": "uniform"},
    )
    assert private_steps(config) == steps
    assert recipe_mechanism(config) == Mechanism(0.3, 1.0, 5 * steps)
