"""Blobs: nothing is lost, and a blob says what is in it before it is decoded."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from safetensors.numpy import save

from mdmt.blob import describe, fingerprint, pack, unpack


@given(
    st.dictionaries(st.text(min_size=1, max_size=9), arrays(np.float32, array_shapes(min_dims=0)))
)
def test_what_is_packed_comes_out_to_the_bit(given_arrays):
    given_arrays.pop("__metadata__", None)
    found = unpack(pack(given_arrays))
    assert found.keys() == given_arrays.keys()
    for name, array in given_arrays.items():
        assert found[name].shape == array.shape
        assert found[name].tobytes() == array.tobytes()


def test_a_blob_says_what_is_in_it():
    blob = pack({"w": np.zeros((2, 3), np.float32), "n": np.float64(1)})
    assert describe(blob) == {"w": ("F32", (2, 3), 24), "n": ("F64", (), 8)}


def test_views_and_transposed_arrays_travel_as_they_look():
    array = np.arange(6, dtype=np.float32).reshape(2, 3)
    found = unpack(pack({"t": array.T, "r": array[::-1]}))
    assert np.array_equal(found["t"], array.T)
    assert np.array_equal(found["r"], array[::-1])


@pytest.mark.parametrize(
    "blob", [b"", b"x", b"not a blob at all", b"\xff" * 64, pack({"w": np.ones(4)})[:-1]]
)
def test_what_is_no_blob_is_a_value_error(blob):
    with pytest.raises(ValueError):
        unpack(blob)


@pytest.mark.parametrize("blob", [b"", b"\x02\0\0\0\0\0\0\0[]", b'\x08\0\0\0\0\0\0\0{"w": 1}'])
def test_what_has_no_header_is_a_value_error(blob):
    with pytest.raises(ValueError):
        describe(blob)


def test_a_blob_is_the_one_that_the_library_writes_and_it_reads_what_that_wrote():
    array = np.random.default_rng(0).normal(size=(3, 5))
    given_arrays = {
        "b": array.astype(np.float32),
        "a": array.astype(np.float16),
        "ä": array,
        "q": array.astype(np.int8),
        "none": np.zeros((0, 4), np.float32),
        "one": np.float32(2),
    }
    expected = save({name: np.asarray(value) for name, value in given_arrays.items()})
    assert pack(given_arrays) == expected
    found = unpack(expected)
    assert all(np.array_equal(found[name], value) for name, value in given_arrays.items())


def test_reading_copies_nothing_and_writing_is_forbidden():
    blob = pack({"w": np.ones(1000, np.float32)})
    (array,) = unpack(blob).values()
    assert np.shares_memory(array, np.frombuffer(blob, np.uint8))
    with pytest.raises(ValueError, match="read-only"):
        array[0] = 2


def blob_with(header, body=b"\0" * 8):
    text = json.dumps(header).encode() if not isinstance(header, bytes) else header
    return len(text).to_bytes(8, "little") + text + body


def entry(start=0, end=8, shape=(2,), dtype="F32"):
    return {"dtype": dtype, "shape": shape, "data_offsets": (start, end)}


@pytest.mark.parametrize(
    "header",
    [
        {"w": entry(end=4)},
        {"w": entry(shape=(3,))},
        {"w": entry(shape=(-2,))},
        {"w": entry(shape=(2.0,))},
        {"w": entry(shape=(2,) * 100)},
        {"w": entry(shape=(2**40, 2**40))},
        {"w": entry(dtype="I64")},
        {"w": entry(dtype=1)},
        {"w": entry(4, 12)},
        {"w": entry(0, 16, (4,))},
        {"w": entry(), "v": entry()},
        {"w": entry(), "v": entry(4, 12)},
        {},
        b"[" * 100_000,
        b"\xff\xfe",
    ],
    ids=lambda header: str(header)[:60],
)
def test_arrays_that_are_not_where_they_should_be_are_a_value_error(header):
    """Overlapping arrays, gaps, sizes that overflow, and headers that are none."""
    with pytest.raises(ValueError):
        unpack(blob_with(header))


def test_a_fingerprint_tells_names_shapes_dtypes_and_every_bit():
    array = np.float32([[1, 2], [3, 4]])
    different = [
        {"w": array},
        {"v": array},
        {"w": array.T},
        {"w": array.ravel()},
        {"w": array.astype(np.float64)},
        {"w": array, "v": array},
        {"w": np.nextafter(array, np.float32(9))},
    ]
    assert len({fingerprint(arrays) for arrays in different}) == len(different)
    assert fingerprint({"a": array, "w": array}) == fingerprint({"w": array.copy(), "a": array})
