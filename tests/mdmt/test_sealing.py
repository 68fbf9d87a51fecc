"""A sealed message is read by whoever has the private key, and by nobody else."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mdmt.sealing import new_seal, seal, unseal


@settings(max_examples=30, deadline=None)
@given(st.binary(max_size=500), st.text(max_size=20))
def test_what_was_sealed_comes_back(content, kind):
    private, public = new_seal()
    sealed = seal(content, public, kind)
    assert len(sealed) == len(content) + 48
    assert unseal(sealed, private, kind) == content


def test_the_same_content_never_looks_the_same():
    """Two parts of 16 bytes of any two sealed messages differ, with an error rate of 2^-100."""
    _, public = new_seal()
    sealed = [seal(bytes(160), public, "train") for _ in range(20)]
    parts = [message[i : i + 16] for message in sealed for i in range(0, len(message), 16)]
    assert len(set(parts)) == len(parts)


def test_nothing_of_the_content_is_in_the_sealed_message():
    _, public = new_seal()
    content = bytes(range(256)) * 100
    sealed = seal(content, public, "train")
    for start in range(0, len(content), 8):
        assert content[start : start + 8] not in sealed


@pytest.mark.parametrize("place", [0, 31, 32, 40, -16, -1])
def test_a_changed_bit_is_noticed(place):
    private, public = new_seal()
    sealed = bytearray(seal(b"an update", public, "train"))
    sealed[place] ^= 1
    with pytest.raises(ValueError, match="changed, or sealed to another key"):
        unseal(bytes(sealed), private, "train")


def test_another_key_another_kind_and_a_short_message_are_refused():
    private, public = new_seal()
    sealed = seal(b"an update", public, "train")
    with pytest.raises(ValueError, match="another key"):
        unseal(sealed, new_seal()[0], "train")
    with pytest.raises(ValueError, match="changed"):
        unseal(sealed, private, "evaluate")
    for size in (0, 31, 32, 47):
        with pytest.raises(ValueError):
            unseal(sealed[:size], private, "train")


@pytest.mark.parametrize("key", [b"", bytes(31), bytes(32)])
def test_a_key_that_hides_nothing_is_refused(key):
    """The point 0 gives the same secret with every key (RFC 7748, section 6.1)."""
    with pytest.raises(ValueError):
        seal(b"an update", key, "train")
