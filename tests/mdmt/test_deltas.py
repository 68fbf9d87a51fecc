"""Lossy encodings: how much is lost, where it goes, and what is no delta."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from mdmt.deltas import decode, encode
from mdmt.wire import pack, unpack

LOSSY = ["float16", "int8"]
TINY = np.finfo(np.float32).tiny
SHAPE = (4, 16, 16)  # 1024 numbers: the smallest array that is worth a loss
ZEROS = {"w": np.zeros(SHAPE, np.float32)}
finite = st.floats(width=32, min_value=-(2.0**120), max_value=2.0**120)


def scale_of(travels, array):
    return travels["w:scale"].reshape(-1, *[1] * (array.ndim - 1)).astype(np.float64)


@given(arrays(np.float32, SHAPE, elements=finite))
def test_int8_is_off_by_half_a_scale_at_most(array):
    """Zeros, subnormal numbers and a range of 80 decades included."""
    travels, lost = encode({"w": array}, ZEROS, "int8")
    found = decode(unpack(pack(travels)), ZEROS, "int8")["w"]
    half = scale_of(travels, array) / 2
    error = np.abs(array.astype(np.float64) - found)
    assert np.all(error <= half * (1 + 1e-4))  # 127 rounds of float32 in the product
    assert np.array_equal(lost["w"], array - found)
    assert travels["w"].dtype == np.int8
    assert np.abs(travels["w"].astype(int)).max() <= 127


@given(arrays(np.float32, SHAPE, elements=finite))
def test_float16_keeps_eleven_bits_of_all_that_is_near_the_largest_of_its_row(array):
    travels, _ = encode({"w": array}, ZEROS, "float16")
    found = decode(travels, ZEROS, "float16")["w"]
    peak = np.abs(array).max(axis=(1, 2), keepdims=True).astype(np.float64)
    error = np.abs(array.astype(np.float64) - found)
    small = np.maximum(peak * 2.0**-39, TINY)  # half of the smallest float16 is 2^-25, peak is 2^15
    assert np.all(error <= np.abs(array) * 2.0**-11 * 1.01 + small)


@pytest.mark.parametrize("encoding", LOSSY)
def test_a_row_has_a_scale_of_its_own(encoding):
    array = np.ones(SHAPE, np.float32) * np.float32([1e-20, 1, 1e20, 0])[:, None, None]
    travels, _ = encode({"w": array}, ZEROS, encoding)
    found = decode(travels, ZEROS, encoding)["w"]
    assert np.allclose(found, array, rtol=1e-6, atol=0)


@pytest.mark.parametrize("encoding", LOSSY)
@pytest.mark.parametrize(
    "array",
    [
        np.float32(1.5),
        np.zeros(0, np.float32),
        np.zeros((0, 5000), np.float32),
        np.zeros((5000, 0), np.float32),
        np.linspace(0, 1, 5000, dtype=np.float32),  # a bias, or running statistics
        np.ones((2000, 4), np.float32),  # rows too short for a scale
        np.ones((10, 10), np.float32),
        np.ones((64, 64), np.float64),
        np.full((64, 64), np.nan, np.float32),
        np.full((64, 64), np.inf, np.float32),
        np.full((64, 64), 3e38, np.float32),
    ],
    ids=lambda array: f"{array.dtype} {array.shape} {array.ravel()[:1]}",
)
def test_what_is_small_or_has_no_sensible_scale_travels_exact(encoding, array):
    base = {"w": np.zeros_like(array)}
    travels, lost = encode({"w": array}, base, encoding)
    assert lost == {}
    assert travels["w"] is array
    assert decode(travels, base, encoding)["w"].tobytes() == np.asarray(array).tobytes()


def test_float32_sends_the_arrays_themselves():
    array = np.random.default_rng(0).normal(size=SHAPE).astype(np.float32)
    travels, lost = encode({"w": array}, {}, "float32")
    assert lost == {}
    assert travels["w"] is array


@pytest.mark.parametrize("encoding", LOSSY)
def test_what_is_lost_is_in_the_next_delta_so_that_the_sum_is_the_truth(encoding):
    """After n rounds the two sides differ by what the last delta lost, not by n times that."""
    rng = np.random.default_rng(0)
    truth = there = np.zeros(SHAPE, np.float32)
    lost, without = {}, there
    for _ in range(50):
        step = rng.normal(size=SHAPE).astype(np.float32)
        step[:, 0, 0] = 100  # so that a scale is large against most of its row
        truth = truth + step
        travels, lost = encode({"w": there + step}, {"w": there}, encoding, lost)
        there = decode(travels, {"w": there}, encoding)["w"]
        bare, _ = encode({"w": without + step}, {"w": without}, encoding)
        without = decode(bare, {"w": without}, encoding)["w"]
    off = np.abs(truth - there - lost["w"])[:, 1:].max()
    assert off <= 50 * 2.0**-18  # float32 rounding of values around 20
    half = travels["w:scale"].max() / 2
    assert np.abs(truth - there)[:, 1:].max() <= half * 1.01 + off
    if encoding == "int8":
        assert np.abs(truth - without)[:, 1:].max() > 3 * half


def tampered(**changes):
    array = np.random.default_rng(0).normal(size=SHAPE).astype(np.float32)
    travels, _ = encode({"w": array}, ZEROS, "int8")
    return {name: value for name, value in (travels | changes).items() if value is not None}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"w:scale": None}, "no scale for each row"),
        ({"w:scale": np.ones(3, np.float32)}, "no scale for each row"),
        ({"w:scale": np.ones((4, 1), np.float32)}, "no scale for each row"),
        ({"w:scale": np.ones(4, np.float64)}, "no scale for each row"),
        *(
            ({"w:scale": np.float32([1, 1, 1, bad])}, "a scale that is none")
            for bad in (np.nan, np.inf, -1, 0, 1e-45, 1e37)
        ),
        ({"w": np.zeros((4, 16, 17), np.int8)}, "a delta to nothing"),
        ({"other": np.zeros((4, 16), np.int8)}, "a delta to nothing"),
        ({"w": np.int8(1)}, "a delta to nothing"),
    ],
)
def test_what_no_encoder_makes_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        decode(tampered(**{"w:scale": np.ones(4, np.float32)} | changes), ZEROS, "int8")


def test_a_scale_without_its_delta_is_an_array_like_any_other():
    """So that the check of names finds it."""
    assert "x:scale" in decode({"x:scale": np.ones(4, np.float32)}, {}, "int8")


def test_the_largest_numbers_a_hostile_delta_can_hold_decode_without_a_warning():
    travels = tampered(**{"w:scale": np.full(4, 1e36, np.float32)})
    travels["w"] = np.full(SHAPE, -128, np.int8)
    base = {"w": np.full(SHAPE, -3e38, np.float32)}
    assert not np.isfinite(decode(travels, base, "int8")["w"]).any()
