"""The codec: how much is lost, where it goes, and what no encoder makes."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy import float32

from mdmt.blob import pack, unpack
from mdmt.config import WireConfig
from mdmt.wire import Codec, largest_message

SHAPE = (4, 16, 16)  # 1024 numbers: the smallest array that is rounded
ZEROS = {"w": np.zeros(SHAPE, float32)}
LIMIT = 10**8
finite = st.floats(width=32, min_value=-(2.0**120), max_value=2.0**120)
EXACT = Codec(WireConfig())


def up(encoding):
    return Codec(WireConfig(up=encoding))


def down():
    return Codec(WireConfig(down="float16"))


def random(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape or SHAPE).astype(float32)


def there_and_back(codec, update, sent, lost=None):
    """An update encoded at the site and decoded at the server; and what was lost."""
    received = codec.receive(codec.broadcast(sent), LIMIT)
    blob, lost = codec.upload(update, received, lost or {})
    return codec.decode_upload(blob, sent), lost


def test_float32_is_exact_both_ways():
    sent, update = {"w": random()}, {"w": random(seed=1)}
    assert np.array_equal(EXACT.receive(EXACT.broadcast(sent), LIMIT)["w"], sent["w"])
    found, lost = there_and_back(EXACT, update, sent)
    assert found["w"].tobytes() == update["w"].tobytes()
    assert lost == {}


@given(arrays(float32, SHAPE, elements=finite))
def test_int8_is_off_by_half_a_scale_at_most(array):
    """Zeros, subnormal numbers and a range of 80 decades included."""
    found, lost = there_and_back(up("int8"), {"w": array}, ZEROS)
    scale = np.maximum(np.abs(array).max(axis=(1, 2), keepdims=True) / 127.0, 2.0**-126)
    error = np.abs(array.astype(np.float64) - found["w"])
    assert np.all(error <= scale.astype(np.float64) / 2 * (1 + 1e-4))
    assert np.array_equal(lost["w"], array - found["w"])


@given(arrays(float32, SHAPE, elements=finite))
def test_float16_keeps_eleven_bits_of_what_is_near_the_largest_of_its_channel(array):
    found, _ = there_and_back(up("float16"), {"w": array}, ZEROS)
    peak = np.abs(array).max(axis=(1, 2), keepdims=True).astype(np.float64)
    error = np.abs(array.astype(np.float64) - found["w"])
    small = np.maximum(peak * 2.0**-39, 2.0**-126)  # the smallest float16 is 2^-24, the peak 2^15
    assert np.all(error <= np.abs(array) * 2.0**-11 * 1.01 + small)


@pytest.mark.parametrize("encoding", ["float16", "int8"])
def test_each_channel_has_its_own_scale(encoding):
    array = np.ones(SHAPE, float32) * float32([1e-20, 1, 1e20, 0])[:, None, None]
    found, _ = there_and_back(up(encoding), {"w": array}, ZEROS)
    assert np.allclose(found["w"], array, rtol=1e-6, atol=0)


SMALL = [
    float32(1.5),
    np.zeros(0, float32),
    np.zeros((0, 5000), float32),
    np.zeros((5000, 0), float32),
    np.linspace(0, 1, 5000, dtype=float32),  # a bias, or running statistics
    np.ones((2000, 4), float32),  # channels too short for a scale
    np.ones((10, 10), float32),
    np.ones((64, 64), np.float64),
    np.full((64, 64), np.nan, float32),
    np.full((64, 64), np.inf, float32),
    np.full((64, 64), 3e38, float32),
]


@pytest.mark.parametrize("encoding", ["float16", "int8"])
@pytest.mark.parametrize("array", SMALL, ids=lambda a: f"{a.dtype} {a.shape} {a.ravel()[:1]}")
def test_what_is_small_or_too_large_is_sent_exact(encoding, array):
    found, lost = there_and_back(up(encoding), {"w": array}, {"w": np.zeros_like(array)})
    assert lost == {}
    assert found["w"].tobytes() == np.asarray(array).tobytes()


@pytest.mark.parametrize("array", [*SMALL[:7], *SMALL[9:]], ids=lambda a: f"{a.dtype} {a.shape}")
def test_the_way_down_rounds_no_small_and_no_large_value(array):
    found = down().receive(down().broadcast({"w": array}), LIMIT)
    assert found["w"].tobytes() == np.asarray(array).tobytes()


def test_float16_down_is_the_array_rounded():
    array = random()
    blob = down().broadcast({"w": array})
    assert unpack(blob)["w"].dtype == np.float16
    found = down().receive(blob, LIMIT)["w"]
    assert found.dtype == float32
    assert np.array_equal(found, array.astype(np.float16).astype(float32))


@pytest.mark.parametrize("encoding", ["float32", "float16", "int8"])
def test_rounding_on_the_way_down_does_not_add_up_over_rounds(encoding):
    """Sites add 1e-5 a round, a fortieth of a float16 step at 1; 100 rounds make 1e-3."""
    codec = Codec(WireConfig(up=encoding, down="float16"))
    state, lost = {"w": np.full(SHAPE, 1.0001, float32)}, {}
    for _ in range(100):
        received = codec.receive(codec.broadcast(state), LIMIT)
        blob, lost = codec.upload({"w": received["w"] + float32(1e-5)}, received, lost)
        state = codec.decode_upload(blob, state)
    assert np.allclose(state["w"], 1.0011, rtol=0, atol=3e-5)


@pytest.mark.parametrize("encoding", ["float16", "int8"])
def test_what_an_update_loses_is_in_the_next_one(encoding):
    """After n rounds the sum is off by what the last update lost, not by n times that."""
    codec, rng = up(encoding), np.random.default_rng(0)
    truth = there = without = np.zeros(SHAPE, float32)
    lost = {}
    for _ in range(50):
        step = rng.normal(size=SHAPE).astype(float32)
        step[:, 0, 0] = 100  # so that a scale is large against most of its channel
        truth = truth + step
        found, lost = there_and_back(codec, {"w": there + step}, {"w": there}, lost)
        there = found["w"]
        without = there_and_back(codec, {"w": without + step}, {"w": without})[0]["w"]
    off = np.abs(truth - there - lost["w"])[:, 1:].max()
    assert off <= 50 * 2.0**-18  # float32 rounding of values around 20
    half = 100 / 127 / 2 if encoding == "int8" else 100 / 2**15 / 2
    assert np.abs(truth - there)[:, 1:].max() <= half * 1.1 + off
    if encoding == "int8":
        assert np.abs(truth - without)[:, 1:].max() > 3 * half


def tampered(**changes):
    encoded = unpack(up("int8").upload({"w": random()}, ZEROS, {})[0])
    return pack({name: v for name, v in (encoded | changes).items() if v is not None})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"w:scale": None}, "no scale for each channel"),
        ({"w:scale": np.ones(3, float32)}, "no scale for each channel"),
        ({"w:scale": np.ones((4, 1), float32)}, "no scale for each channel"),
        ({"w:scale": np.ones(4, np.float64)}, "no scale for each channel"),
        *(
            ({"w:scale": float32([1, 1, 1, bad])}, "an invalid scale")
            for bad in (np.nan, np.inf, -1, 0, 1e-45, 1e37)
        ),
        ({"w": np.zeros((4, 16, 17), np.int8)}, "an array that was not sent"),
        ({"other": np.zeros((4, 16), np.int8)}, "an array that was not sent"),
        ({"w": np.int8(1)}, "an array that was not sent"),
    ],
)
def test_what_no_encoder_makes_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        up("int8").decode_upload(tampered(**{"w:scale": np.ones(4, float32)} | changes), ZEROS)


def test_a_scale_without_its_difference_is_an_array_like_any_other():
    """So that the check of names finds it."""
    blob = pack({"x:scale": np.ones(4, float32)})
    assert "x:scale" in up("int8").decode_upload(blob, {})


def test_the_largest_numbers_of_a_hostile_update_decode_without_a_warning():
    changes = {"w:scale": np.full(4, 1e36, float32), "w": np.full(SHAPE, -128, np.int8)}
    base = {"w": np.full(SHAPE, -3e38, float32)}
    assert not np.isfinite(up("int8").decode_upload(tampered(**changes), base)["w"]).any()


def test_a_message_beyond_the_limit_is_not_decoded():
    blob = EXACT.broadcast({"w": np.zeros(100, float32)})
    with pytest.raises(ValueError, match="at most 10 are expected"):
        EXACT.receive(blob, 10)
    assert len(blob) <= largest_message({"w": 400})


@pytest.mark.parametrize(("encoding", "most"), [("float16", 0.502), ("int8", 0.253)])
def test_bytes_of_a_large_array(encoding, most):
    """Half and a quarter, with a scale for each of 512 channels of 4608 numbers."""
    array = random(512, 4608)
    blob, _ = up(encoding).upload({"w": array}, {"w": np.zeros_like(array)}, {})
    assert len(blob) <= most * array.nbytes
