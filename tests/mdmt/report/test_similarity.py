"""The heat map of cosines."""

from __future__ import annotations

from mdmt.report.similarity import mean_cosines, similarity_blocks

HISTORY = [
    {"round": 0},
    {"round": 1, "cosines": {"a": {"b": 0.5, "c": None}, "b": {"c": -0.25}}},
    {"round": 2, "cosines": {"a": {"b": 0.0}}},
]


def test_a_pair_has_the_mean_of_its_rounds():
    assert mean_cosines(HISTORY) == {("a", "b"): 0.25, ("b", "c"): -0.25}


def test_the_map_has_a_cell_per_pair_and_says_the_same_in_words():
    (figure,) = similarity_blocks(HISTORY)
    (panel,) = figure.panels
    assert panel.alt == "a and b 0.25; b and c -0.25"


def test_a_run_whose_server_saw_no_single_update_has_no_map():
    assert similarity_blocks([{"round": 0}, {"round": 1}]) == []
