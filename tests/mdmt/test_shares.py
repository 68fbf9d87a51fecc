"""Water-filling against numbers worked out by hand, and what it always keeps."""

from __future__ import annotations

import random

import pytest

from mdmt.shares import limit_shares


def test_the_rest_is_shared_in_proportion():
    # .7 is cut to .4; the others share .6 as 2 to 1. Then .4 is not above the limit.
    assert limit_shares({"a": 0.7, "b": 0.2, "c": 0.1}, 0.4) == pytest.approx(
        {"a": 0.4, "b": 0.4, "c": 0.2}
    )


def test_a_share_that_grows_above_the_limit_is_cut_too():
    # .6 is cut to .35; .3 grows to .4875 and is cut; .1 gets the rest.
    shares = limit_shares({"a": 0.6, "b": 0.3, "c": 0.1}, 0.35)
    assert shares == pytest.approx({"a": 0.35, "b": 0.35, "c": 0.3})


def test_shares_below_the_limit_keep_their_bits():
    shares = {"a": 1 / 3, "b": 0.1, "c": 1 - 1 / 3 - 0.1}
    assert limit_shares(shares, 0.6) == shares
    assert limit_shares(shares, None) == shares
    assert limit_shares({}, 0.5) == {}


def test_too_few_shares_are_equal():
    assert limit_shares({"a": 0.9, "b": 0.1}, 0.4) == {"a": 0.5, "b": 0.5}
    assert limit_shares({"a": 1.0}, 0.4) == {"a": 1.0}
    assert limit_shares({"a": 0.9, "b": 0.05, "c": 0.05}, 1 / 3) == pytest.approx(
        dict.fromkeys("abc", 1 / 3)
    )


def test_the_sum_is_one_nobody_is_above_and_the_order_does_not_matter():
    rng = random.Random(0)
    for _ in range(300):
        n = rng.randint(1, 12)
        raw = {f"s{i}": rng.choice([1e-9, 1e-3, 1, 1, 50, 1e9]) * rng.random() for i in range(n)}
        shares = {name: value / sum(raw.values()) for name, value in raw.items()}
        largest = rng.uniform(1 / n, 1)
        limited = limit_shares(shares, largest)
        assert sum(limited.values()) == pytest.approx(1, abs=1e-12)
        assert max(limited.values()) <= largest + 1e-12
        names = list(shares)
        rng.shuffle(names)
        assert limit_shares({name: shares[name] for name in names}, largest) == limited
        kept = [name for name in shares if limited[name] < largest * (1 - 1e-9)]
        ratios = [limited[name] / shares[name] for name in kept]
        assert ratios == pytest.approx([max(ratios, default=0)] * len(ratios))
