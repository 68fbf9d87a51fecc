"""The secret random numbers of a site."""

from __future__ import annotations

import numpy as np
import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms
from scipy import stats

from mdmt.privacy.noise import KeyStream, NoiseSource

SECRET = bytes(range(32))


def normals(n, step=0, identity="order", secret=SECRET):
    return NoiseSource(secret, identity).stream(step, "noise").normals(n)


def test_the_numbers_are_standard_normal():
    n = 400_000
    values = normals(n)
    moments = [values.mean(), values.var(), (values**3).mean(), (values**4).mean()]
    spread = np.sqrt(np.array([1, 2, 15, 96]) / n)  # variances of x, x², x³ and x⁴ of a normal
    assert np.all(np.abs(np.array(moments) - [0, 1, 0, 3]) < 5 * spread)
    assert stats.kstest(values, "norm").pvalue > 1e-4
    assert np.abs(np.corrcoef(values[:-1], values[1:])[0, 1]) < 5 / np.sqrt(n)
    assert np.isfinite(values).all()


def test_the_largest_and_smallest_integers_give_finite_numbers(monkeypatch):
    edges = np.array([0, 2**64 - 1], dtype=np.uint64)
    monkeypatch.setattr(KeyStream, "integers", lambda self, n: edges)
    low, high = KeyStream(SECRET).normals(2)
    assert -8.4 < low < -8.2
    assert 8.1 < high < 8.4


@pytest.mark.parametrize(
    "other", [{"step": 1}, {"identity": "another order"}, {"secret": bytes(32)}]
)
def test_equal_facts_give_equal_numbers_and_others_do_not(other):
    assert np.array_equal(normals(50), normals(50))
    assert not np.isin(normals(50, **other), normals(50)).any()


def test_purposes_have_their_own_numbers():
    source = NoiseSource(SECRET, "order")
    streams = {
        p: source.stream(0, p).seed() for p in ("sample", "noise", "augmentation", "dropout")
    }
    assert len(set(streams.values())) == 4


def test_a_stream_is_chacha20_and_goes_on():
    key = bytes(32)
    cipher = Cipher(algorithms.ChaCha20(key, bytes(16)), mode=None).encryptor()
    expected = np.frombuffer(cipher.update(bytes(40)), "<u8")
    stream = KeyStream(key)
    assert [*stream.integers(2), *stream.integers(3)] == expected.tolist()


@pytest.mark.parametrize("q", [0.01, 0.3])
def test_patients_are_drawn_with_the_probability(q):
    n = 100_000
    drawn = NoiseSource(SECRET, "order").stream(0, "sample").chosen(q, n)
    assert abs(drawn.sum() - q * n) < 5 * np.sqrt(n * q * (1 - q))


def test_probability_one_draws_everybody():
    assert NoiseSource(SECRET, "order").stream(0, "sample").chosen(1.0, 1000).all()
