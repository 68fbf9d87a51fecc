"""A site's memory: what it is found by, what it forgets, what it refuses."""

from __future__ import annotations

import pytest
import torch

from client.state import SiteState
from mdmt.errors import StateError

IDENTITY = {"federation": "f1", "run": "r1", "site": "a"}


@pytest.fixture
def state(tmp_path):
    return SiteState(tmp_path / "state", IDENTITY)


def value(state, up_to):
    return state.load(up_to)["x"].item()


def save(state, *rounds):
    for number in rounds:
        state.save(number, {"x": torch.tensor(float(number))})


def test_a_site_without_a_past_has_no_state(state):
    assert state.load(5) == {}


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
    other = SiteState(state.folder, IDENTITY | {key: "other"})
    with pytest.raises(StateError, match=f"saved for {key} .*, not other"):
        other.load(1)


def test_a_damaged_file_is_refused_by_name(state):
    save(state, 1)
    state.path(1).write_bytes(state.path(1).read_bytes()[:-1])
    with pytest.raises(StateError, match="round-00001"):
        state.load(1)


def test_a_failed_save_leaves_the_former_file(state, monkeypatch):
    save(state, 1)
    before = state.path(1).read_bytes()

    def full_disk(*arguments, **options):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("client.state.save_file", full_disk)
    with pytest.raises(OSError, match="No space"):
        save(state, 1)
    assert state.path(1).read_bytes() == before
    assert [file.name for file in state.folder.iterdir()] == ["round-00001.safetensors"]
