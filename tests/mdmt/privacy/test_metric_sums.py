"""Metrics as sums: the means of plain aggregation, also if sites withhold or lack values."""

from __future__ import annotations

import pytest

from mdmt.messages import KeyStatement
from mdmt.metrics import weighted_mean_metrics
from mdmt.privacy.fixed_point import decode_metrics, encode_metrics
from mdmt.privacy.metric_sums import MetricLayout, as_words, from_words

RUN, ZERO = "0123456789ab", "0" * 64
SITES = {
    "a": {"prognosis/examples": 3, "prognosis/loss": 1.0, "prognosis/auroc": None},
    "b": {"prognosis/examples": 1, "prognosis/loss": 2.0, "prognosis/auroc": 0.75},
    "c": {"severity/examples": 5, "severity/loss": -0.5, "severity/mae": 0.125},
}


def statement(name, **counts):
    return KeyStatement(
        name=name, recipe=ZERO, run=RUN, counts=counts, key=ZERO, signer="", signature="0" * 192
    )


@pytest.fixture
def layout(make_config):
    def make(a=9):
        counts = {"a": {"prognosis": a}, "b": {"prognosis": 3}, "c": {"severity": 4}}
        config = make_config(privacy={"secure_aggregation": True})
        return MetricLayout(config, {s: statement(s, **n) for s, n in counts.items()})

    return make


def test_means_to_check_by_hand(layout):
    """(3·1 + 1·2)/4 = 1.25; the AUROC of a is not defined, so it is that of b."""
    sums = layout().add(layout().encode(m, clipped=2) for m in SITES.values())
    plain = weighted_mean_metrics(SITES)
    assert plain["prognosis/loss"] == 1.25
    for name, value in plain.items():
        assert sums.means[name] == value, name
    assert sums.supports["prognosis/loss"] == 4
    assert sums.supports["prognosis/auroc"] == 1
    assert sums.supports["severity/mae"] == 5
    assert sums.means["severity/pearson"] is None
    assert sums.clipped == 6


def test_if_one_site_withholds_its_numbers_all_sites_count_alike(layout):
    hidden = SITES | {"a": {"prognosis/examples": None, "prognosis/loss": 1.0}}
    sums = layout(a=None).add(layout(a=None).encode(m) for m in hidden.values())
    assert sums.means["prognosis/loss"] == weighted_mean_metrics(hidden)["prognosis/loss"] == 1.5
    assert sums.means["prognosis/examples"] is None
    assert sums.means["severity/examples"] == 5


def test_a_metric_that_the_policy_withholds_adds_nothing(layout):
    withheld = {"prognosis/examples": None, "prognosis/loss": None}
    sums = layout().add(layout().encode(m) for m in (SITES["b"], withheld))
    assert sums.means["prognosis/loss"] == 2.0
    assert sums.supports["prognosis/loss"] == 1


@pytest.mark.parametrize("sites", [3, 50])
def test_absurd_metrics_are_clipped_and_do_not_overflow(sites):
    total = sum(encode_metrics([1e30, -1e30], sites) for _ in range(sites))
    high, low = decode_metrics(total)
    assert high == -low > 1e12


def test_noise_is_found():
    with pytest.raises(ValueError, match="larger than all metrics"):
        decode_metrics(encode_metrics([1e30], 1) * 2)


def test_words_of_a_message_are_the_numbers(layout):
    numbers = layout().encode(SITES["a"])
    assert (from_words(as_words(numbers)) == numbers).all()
    assert as_words(numbers).shape == (layout().size, 2)
