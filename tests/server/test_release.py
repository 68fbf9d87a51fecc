"""Which round is released, and what the model card says of it."""

from __future__ import annotations

from typing import Any

import pytest

from server.model_card import model_card
from server.release import choose

ENOUGH = {"patients": 18, "positives_SEVERE": 6, "negatives_SEVERE": 12}
"""At each of two sites: 36 validation patients, 12 of them SEVERE."""


def split(task: str, **metrics: float | None) -> dict[str, float | None]:
    return {f"{task}/{name}": value for name, value in metrics.items()}


def results(
    *, val: dict[str, Any] = ENOUGH, last: float = 0.7, best: float = 0.8, **references: float
) -> dict[str, Any]:
    """A ``metrics.json`` of prognosis at the sites a and b; `val` is what b reports."""

    def entry(auroc: float, **more: Any) -> dict[str, Any]:
        test = split("prognosis", examples=40, auroc=auroc, auroc_low=None, auroc_high=None)
        vals = {"a": ENOUGH, "b": val}
        sites = {s: {"val": split("prognosis", **vals[s]), "test": test} for s in vals}
        return {"sites": sites} | more

    return {
        "checkpoints": {"last": entry(last, round=9), "best:prognosis": entry(best, round=4)},
        "references": {name: entry(auroc) for name, auroc in references.items()},
    }


@pytest.fixture
def cards(make_config, make_card):
    config = make_config()
    return {name: make_card(config, name, prognosis=30) for name in ("a", "b")}


@pytest.mark.parametrize(
    ("checkpoint", "val", "released"),
    [
        ("auto", ENOUGH, "best:prognosis"),
        ("auto", ENOUGH | {"patients": 11}, "last"),  # 29 patients
        ("auto", ENOUGH | {"positives_SEVERE": 3}, "last"),  # 9 of a class
        ("auto", ENOUGH | {"positives_SEVERE": None}, "last"),  # withheld
        ("auto", {}, "last"),
        ("best", {}, "best:prognosis"),
        ("last", ENOUGH, "last"),
    ],
)
def test_the_best_round_is_released_only_if_validation_can_choose_it(
    make_config, cards, checkpoint: str, val: dict[str, Any], released: str
) -> None:
    config = make_config(release={"checkpoint": checkpoint})
    chosen = choose(config, cards, results(val=val))
    assert chosen == {"prognosis": released, "severity": "last"}


def test_a_site_that_was_not_evaluated_makes_auto_take_the_last(make_config, cards) -> None:
    metrics = results()
    del metrics["checkpoints"]["last"]["sites"]["b"]
    assert choose(make_config(), cards, metrics)["prognosis"] == "last"


def card_of(config, cards, metrics: dict[str, Any], chosen: str = "last") -> list[str]:
    released = {"prognosis": chosen, "severity": "last"}
    return model_card(config, released, cards, metrics).splitlines()


def test_the_card_shows_every_model_and_warns_first(make_config, cards) -> None:
    metrics = results(constant=0.5, probe=0.75, local=0.65)
    against = split("prognosis", auroc=-0.05, auroc_low=-0.09, auroc_high=-0.01)
    metrics["checkpoints"]["last"]["differences"] = {"probe": {"a": against}}
    card = card_of(make_config(), cards, metrics)
    assert card[0].startswith("**Warning: this model is below a baseline.**")
    a, b = card[0].split("; ")
    assert "prognosis at a: auroc 0.700, probe 0.750" in a
    assert a.endswith("(difference −0.050 [−0.090, −0.010], worse)")
    assert b == (
        "prognosis at b: auroc 0.700, probe 0.750 (difference −0.050, no difference shown)."
    )
    assert "| a | prognosis | 30 | 40 | auroc | 0.500 | 0.750 | 0.650 | 0.700 | 0.800 |" in card
    assert any("| prognosis |" in line and line.endswith("| 9 (last) |") for line in card)


def test_a_card_without_a_better_baseline_has_no_warning(make_config, cards) -> None:
    metrics = results(constant=0.5, local=0.75)
    card = card_of(make_config(), cards, metrics, "best:prognosis")
    assert card[0] == "# Model card: test"
    assert any(line.endswith("| 4 (best) |") for line in card)
