"""Best rounds and the plateau scheduler compare rounds over one set of sites."""

from __future__ import annotations

import json

import pytest

from mdmt.selection import Selection

BOTH = {"prognosis": ["a", "b"]}


@pytest.fixture
def selection(make_config):
    """A plateau of patience 1 that halves the rate, and one task."""
    scheduler = {"name": "plateau", "patience": 1, "gamma": 0.5}
    tasks = {"prognosis": {"kind": "classification", "classes": ["MILD", "SEVERE"]}}
    return Selection(
        make_config(tasks=tasks, training={"rounds": 9, "local_steps": 1, "scheduler": scheduler})
    )


def site(auroc, loss=1.0, examples=10):
    keys = {"auroc": auroc, "loss": loss, "examples": examples}
    return {f"prognosis/{key}": value for key, value in keys.items()}


def test_the_best_round_is_the_best_mean(selection):
    for number, (a, b) in enumerate([(0.5, 0.7), (0.9, 0.6), (0.6, 0.8)], start=1):
        means = selection.book(number, {"a": site(a), "b": site(b)}, BOTH)
    assert selection.best["prognosis"].round == 2
    assert means["prognosis/auroc"] == pytest.approx(0.7)


def test_an_easy_site_alone_is_no_best_round(selection):
    """a is easy: the round in which it alone answered has the highest mean, and says nothing."""
    selection.book(1, {"a": site(0.9), "b": site(0.5)}, BOTH)
    selection.book(2, {"a": site(0.95)}, BOTH)
    selection.book(3, {"a": site(0.92), "b": site(0.6)}, BOTH)
    assert selection.best["prognosis"].round == 3


def test_without_one_complete_round_no_round_is_best(selection):
    """As with `fraction` 0.5: in every round another half of the sites."""
    for number in range(1, 5):
        selection.book(number, {"ab"[number % 2]: site(0.9)}, BOTH)
    assert selection.best == {}


def test_a_site_that_joins_starts_the_comparison_again(selection):
    selection.book(1, {"a": site(0.9)}, {"prognosis": ["a"]})
    selection.book(2, {"a": site(0.6), "b": site(0.6)}, BOTH)
    assert selection.best["prognosis"].round == 2


def test_a_site_whose_metric_is_undefined_does_not_count_but_does_not_stop_the_others(selection):
    for number, auroc in enumerate([0.5, 0.9, 0.7], start=1):
        selection.book(number, {"a": site(auroc), "b": site(None)}, BOTH)
    assert selection.best["prognosis"].round == 2
    selection.book(4, {"a": site(None), "b": site(None)}, BOTH)
    assert selection.best["prognosis"].round == 2


def test_round_0_is_no_best_round(selection):
    selection.book(0, {"a": site(0.9), "b": site(0.9)}, BOTH)
    assert selection.best == {}


def test_an_absent_site_neither_lowers_the_loss_nor_the_rate(selection):
    """Without b the loss is 0.1: a lowest loss that no later round of both could reach."""
    selection.book(1, {"a": site(0.5, 0.1), "b": site(0.5, 1.9)}, BOTH)
    selection.book(2, {"a": site(0.5, 0.1)}, BOTH)
    assert (selection.lowest_loss, selection.rounds_without_gain) == (1.0, 0)
    selection.book(3, {"a": site(0.5, 0.1), "b": site(0.5, 1.7)}, BOTH)
    assert (selection.lowest_loss, selection.lr_factor) == (pytest.approx(0.9), 1.0)


def test_the_rate_falls_after_patience_rounds_without_gain(selection):
    both = {"a": site(0.5), "b": site(0.5)}
    factors = []
    for number in range(1, 6):
        selection.book(number, both, BOTH)
        factors.append(selection.lr_factor)
    assert factors == [1.0, 1.0, 0.5, 0.5, 0.25]


def test_a_selection_is_saved_as_json_and_goes_on_from_there(selection):
    selection.book(1, {"a": site(0.7, 0.5), "b": site(0.9, 0.5)}, BOTH)
    selection.book(2, {"a": site(0.6, 0.7), "b": site(0.8, 0.7)}, BOTH)
    other = Selection(selection.config)
    other.load(json.loads(json.dumps(selection.save())))
    assert other.save() == selection.save()
    for one in (selection, other):
        one.book(3, {"a": site(0.8, 0.8), "b": site(0.9, 0.8)}, BOTH)
    assert other.save() == selection.save()
    assert other.best["prognosis"].round == 3
    assert other.lr_factor == 0.5


def test_plateau_needs_all_sites_in_every_round(make_config):
    with pytest.raises(ValueError, match=r"needs aggregation\.fraction 1"):
        make_config(training={"rounds": 2, "scheduler": "plateau"}, aggregation={"fraction": 0.5})
