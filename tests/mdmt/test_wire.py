"""Arrays on the wire: nothing is lost, and a blob says what is in it before it is decoded."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from mdmt.wire import describe, pack, unpack


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
