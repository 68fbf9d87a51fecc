"""Saved rounds: what they are found by, what is forgotten, what is refused."""

from __future__ import annotations

import pytest
import torch

from mdmt.checkpoints import RoundFiles
from mdmt.errors import DamagedError, StateError

IDENTITY = {"federation": "f1", "run": "r1", "site": "a"}


@pytest.fixture
def state(tmp_path):
    return RoundFiles(tmp_path / "state", IDENTITY)


def value(state, up_to):
    return state.load(state.latest(up_to)).tensors["x"].item()


def save(state, *rounds):
    for number in rounds:
        state.save(number, {"x": torch.tensor(float(number))})


def test_nothing_saved_is_nothing_found(state):
    assert state.rounds() == []
    assert state.latest(5) is None


def test_a_round_comes_back_as_it_was_saved(state):
    tensors = {"x": torch.randn(2, 3), "step": torch.tensor(7.0), "n": torch.tensor([1, 2])}
    state.save(4, tensors, {"line": {"round": 4, "loss": None}})
    saved = state.load(4)
    assert saved.tensors.keys() == tensors.keys()
    assert all(torch.equal(saved.tensors[name], tensors[name]) for name in tensors)
    assert saved.tensors["step"].shape == ()
    assert (saved.round, saved.facts) == (4, {"line": {"round": 4, "loss": None}})
    assert saved.identity == IDENTITY | {"round": "4"}


def test_a_round_starts_from_the_last_one_the_site_took_part_in(state):
    save(state, 1, 4)
    assert value(state, 3) == 1
    assert value(state, 4) == 4
    assert value(state, 9) == 4


def test_repeating_a_round_replaces_its_result_and_keeps_its_start(state):
    save(state, 1, 2)
    state.save(2, {"x": torch.tensor(-2.0)})
    assert value(state, 1) == 1
    assert value(state, 2) == -2


def test_pruning_keeps_what_the_named_rounds_would_read(state):
    save(state, 1, 3, 5, 6, 7)
    state.prune([4, 6, 7])  # round 4 reads 3
    assert state.rounds() == [3, 6, 7]


@pytest.mark.parametrize("key", IDENTITY)
def test_state_of_something_else_is_refused_by_name(state, key):
    save(state, 1)
    other = RoundFiles(state.folder, IDENTITY | {key: "other"})
    with pytest.raises(StateError, match=f"saved for {key} .*, not other"):
        other.load(1)


def test_a_damaged_file_is_refused_by_name(state):
    save(state, 1)
    state.path(1).write_bytes(state.path(1).read_bytes()[:-1])
    with pytest.raises(DamagedError, match="round-00001"):
        state.load(1)


def test_one_flipped_bit_is_noticed(state):
    save(state, 1)
    content = bytearray(state.path(1).read_bytes())
    content[-1] ^= 1  # the tensor's last byte
    state.path(1).write_bytes(content)
    with pytest.raises(DamagedError, match="do not match their digest"):
        state.load(1)


def test_a_round_under_another_rounds_name_is_refused(state):
    save(state, 1)
    state.path(1).rename(state.path(2))
    with pytest.raises(StateError, match="saved for round 1, not 2"):
        state.load(2)


def test_a_failed_save_leaves_the_former_file(state, monkeypatch):
    save(state, 1)
    before = state.path(1).read_bytes()

    def full_disk(*arguments, **options):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("mdmt.checkpoints.save_file", full_disk)
    with pytest.raises(OSError, match="No space"):
        save(state, 1)
    assert state.path(1).read_bytes() == before
    assert [file.name for file in state.folder.iterdir()] == ["round-00001.safetensors"]
