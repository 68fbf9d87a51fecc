"""Masked integers: the sum is exact and has no order; one masked vector is uniform."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from hypothesis import given, settings
from hypothesis import strategies as st

from mdmt.privacy.fixed_point import FixedPoint, largest_exponent
from mdmt.privacy.masking import PIECE, Masks, pair_secrets


def cohort(n, seed=0):
    """Private and public keys of n sites; the keys of a seed are always the same."""
    rng = np.random.default_rng(seed)
    private = {f"s{i}": X25519PrivateKey.from_private_bytes(rng.bytes(32)) for i in range(n)}
    return private, {s: k.public_key().public_bytes_raw().hex() for s, k in private.items()}


def masked(site, private, public, values, transcript=b"T" * 32, array="a"):
    result = values.copy()
    mask = Masks(site, pair_secrets(site, private[site], public), transcript).of(array)
    for start in range(0, len(result), PIECE):
        mask.apply(result[start : start + PIECE])
    return result


@given(st.integers(1, 200), st.floats(1e-6, 1024))
def test_the_largest_exponent_leaves_no_overflow_and_no_room(sites, bound):
    k = largest_exponent(sites, bound)
    product = Fraction(bound) * sites
    assert product * Fraction(2) ** k < 2**31 <= product * Fraction(2) ** (k + 1)
    point = FixedPoint(sites, bound, k)
    assert int(point.limit) == point.limit
    assert sites * int(point.limit) < 2**31


@pytest.mark.parametrize(("sites", "k"), [(3, 29), (10, 27), (50, 25)])
def test_exponents_of_the_docs(sites, k):
    assert largest_exponent(sites, 1.0) == k


def test_numbers_to_check_by_hand():
    """k = 2: 0.5·(3 - 1) = 1 is 4 quarters; -0.5·0.6 rounds to -1 quarter; 2 is clipped to 1.5."""
    point, out = FixedPoint(3, 1.5, 2), np.empty(3, np.uint32)
    received = np.array([1, 0, 0], np.float32)
    clipped = point.encode(np.array([3, -0.6, 4], np.float32), received, 0.5, out)
    assert out.view(np.int32).tolist() == [4, -1, 6]
    assert clipped == 1
    assert point.decode(out, received).tolist() == [2, -0.25, 1.5]


def test_an_update_that_is_not_finite_is_refused():
    point, zeros = FixedPoint(3, 1.0, 29), np.zeros(2, np.float32)
    for value in (np.nan, np.inf, -np.inf):
        with pytest.raises(ValueError, match="not finite"):
            point.encode(np.array([0, value], np.float32), zeros, 0.3, np.empty(2, np.uint32))


def test_sums_at_the_bound_do_not_wrap():
    for sites in (3, 7, 31, 50):
        point = FixedPoint(sites, 1.0, largest_exponent(sites, 1.0))
        for sign in (1, -1):
            out = np.empty(1, np.uint32)
            point.encode(np.array([sign * 9.0], np.float32), np.zeros(1, np.float32), 1.0, out)
            total = np.array([0], np.uint32)
            for _ in range(sites):
                total += out
            result = point.decode(total, np.zeros(1, np.float32))
            assert result[0] == pytest.approx(sign * sites, rel=1e-6)


@settings(deadline=None, max_examples=25)
@given(st.integers(3, 6), st.integers(0, 2**32 - 1), st.randoms(use_true_random=False))
def test_the_sum_is_exact_in_any_order(n, seed, random):
    private, public = cohort(n, seed)
    rng = np.random.default_rng(seed)
    updates = {s: rng.integers(0, 2**32, 50, dtype=np.uint32) for s in private}
    answers = [masked(s, private, public, updates[s]) for s in private]
    random.shuffle(answers)
    total = np.zeros(50, np.uint32)
    for answer in answers:
        total += answer
    plain = sum(update.astype(object) for update in updates.values()) % 2**32
    assert total.tolist() == plain.tolist()


@pytest.mark.parametrize("size", [0, 1, PIECE - 1, PIECE, PIECE + 1, 3 * PIECE + 5])
def test_masks_of_every_length_cancel(size):
    private, public = cohort(3)
    total = np.zeros(size, np.uint32)
    for site in private:
        total += masked(site, private, public, np.full(size, 7, np.uint32))
    assert (total == 21).all()


def test_masks_of_64_bits_cancel():
    private, public = cohort(4)
    total = np.zeros(5, np.uint64)
    for site in private:
        total += masked(site, private, public, np.full(5, 2**63 + 1, np.uint64))
    assert total.tolist() == [4] * 5


CHANGES = [
    {"transcript": b"U" * 32},  # other arrays, table, weights, round or run
    {"array": "b"},
]


@pytest.mark.parametrize("change", CHANGES, ids=str)
def test_sites_that_disagree_give_noise(change):
    """One site saw another table: of 30000 sums, a quarter is larger than any real sum of three."""
    private, public = cohort(3)
    total = np.zeros(30_000, np.uint32)
    for site in private:
        options = change if site == "s1" else {}
        total += masked(site, private, public, np.zeros(30_000, np.uint32), **options)
    point = FixedPoint(3, 1.0, 29)
    with pytest.raises(ValueError, match="larger than all updates together"):
        point.decode(total, np.zeros(30_000, np.float32))
    assert chi_square(total) < 400


def chi_square(words):
    """The statistic of the histogram of bytes: 255 degrees of freedom, deviation 22.6."""
    counts = np.bincount(words.view(np.uint8), minlength=256)
    expected = counts.sum() / 256
    return float(((counts - expected) ** 2 / expected).sum())


@pytest.mark.parametrize(
    "update",
    [
        np.zeros(20_000, np.uint32),
        np.full(20_000, 2**31, np.uint32),
        np.arange(20_000, dtype=np.uint32),
    ],
    ids=["zeros", "constant", "ramp"],
)
def test_one_masked_vector_is_uniform_whatever_the_update(update):
    """Forty sets of keys; 400 is more than six standard deviations above the mean."""
    statistics = []
    for seed in range(40):
        private, public = cohort(3, seed)
        statistics.append(chi_square(masked("s1", private, public, update)))
    assert max(statistics) < 400
    assert 240 < np.mean(statistics) < 270  # the mean of 40 has the deviation 3.6


def test_the_masks_of_two_arrays_rounds_or_pairs_differ():
    private, public = cohort(3)
    zeros = np.zeros(1000, np.uint32)
    vectors = [
        masked(site, private, public, zeros, transcript, array)
        for site in private
        for transcript in (b"T" * 32, b"U" * 32)
        for array in ("a", "b")
    ]
    for i, one in enumerate(vectors):
        for other in vectors[:i]:
            assert np.count_nonzero(one == other) < 3
            assert np.count_nonzero(one == (0 - other).astype(np.uint32)) < 3


def test_a_key_of_small_order_is_refused():
    """Its secret with every key is 0, which anybody knows."""
    private, public = cohort(3)
    with pytest.raises(ValueError):
        pair_secrets("s0", private["s0"], public | {"s1": "00" * 32})
