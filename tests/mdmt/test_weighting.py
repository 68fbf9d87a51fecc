"""w_s and c_{s,t} against numbers worked out by hand."""

from __future__ import annotations

import pytest
from builders import PROGNOSIS, SEVERITY

from mdmt.errors import RegistrationError
from mdmt.weighting import loss_coefficients, site_weights, task_shares


@pytest.fixture
def config(make_config):
    """λ = 1 for prognosis, 3 for severity: Λ = 4."""
    return make_config(tasks={"prognosis": PROGNOSIS, "severity": SEVERITY | {"weight": 3}})


@pytest.fixture
def cards(config, make_card):
    """n_prognosis = 10 + 30, n_severity = 60 + 180; site b has both tasks."""
    return [
        make_card(config, "a", prognosis=10),
        make_card(config, "b", prognosis=30, severity=60),
        make_card(config, "c", severity=180),
    ]


def test_shares_split_each_task_by_its_own_labels(config, cards):
    assert task_shares(config, cards) == {
        "a": {"prognosis": 1 / 4 * 10 / 40},
        "b": {"prognosis": 1 / 4 * 30 / 40, "severity": 3 / 4 * 60 / 240},
        "c": {"severity": 3 / 4 * 180 / 240},
    }


def test_task_weighting_sums_shares(config, cards):
    weights = site_weights(config, cards)
    assert weights == pytest.approx({"a": 1 / 16, "b": 3 / 16 + 3 / 16, "c": 9 / 16})
    assert sum(weights.values()) == pytest.approx(1)


def test_weights_renormalise_over_the_sites_that_answered(config, cards):
    # Without c only b has severity: it carries the whole task. Λ stays 4.
    assert site_weights(config, cards[:2]) == pytest.approx({"a": 1 / 16, "b": 3 / 16 + 3 / 4})
    # Without b and c only prognosis is left: Λ = 1.
    assert site_weights(config, cards[:1]) == {"a": 1.0}


def test_example_and_uniform_weighting(make_config, make_card):
    config = make_config(aggregation={"weighting": "examples"})
    cards = [make_card(config, "a", prognosis=10), make_card(config, "b", severity=90)]
    assert site_weights(config, cards) == {"a": 0.1, "b": 0.9}
    uniform = make_config(aggregation={"weighting": "uniform"})
    assert site_weights(uniform, cards) == {"a": 0.5, "b": 0.5}


def test_loss_coefficients_split_a_site_between_its_tasks(config, cards):
    coefficients = loss_coefficients(config, {card.name: card for card in cards})
    assert coefficients["a"] == {"prognosis": 1.0}
    assert coefficients["b"] == pytest.approx({"prognosis": 0.5, "severity": 0.5})
    assert coefficients["c"] == {"severity": 1.0}


def test_a_site_without_labels_has_no_coefficients(config, make_card):
    with pytest.raises(RegistrationError, match="site a has no labelled"):
        loss_coefficients(config, {"a": make_card(config, "a", prognosis=0)})


def test_hidden_counts_need_uniform_weighting(make_config, make_card):
    uniform = make_config(aggregation={"weighting": "uniform"})
    known = make_card(uniform, "a", prognosis=10)
    hidden = known.model_copy(update={"name": "b", "counts": {"prognosis": {"train": None}}})
    assert site_weights(uniform, [known, hidden]) == {"a": 0.5, "b": 0.5}
    assert loss_coefficients(uniform, {"b": hidden}) == {"b": {"prognosis": 1.0}}
    for weighting in ("tasks", "examples"):
        config = make_config(aggregation={"weighting": weighting})
        with pytest.raises(RegistrationError, match="site b withholds how many labels"):
            site_weights(config, [known, hidden])
