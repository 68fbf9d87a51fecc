"""The numbers of a report are compared with the counts of the site's card."""

from __future__ import annotations

import pytest

from mdmt.errors import Refused
from mdmt.messages import EvaluateReport, ReferenceReport, TrainReport
from server.claims import check_report


@pytest.fixture
def card(make_config, make_card):
    """20 validation images: 20 outcomes, and 90 scores of 6 zones on 15 to 20 images."""
    card = make_card(make_config(), "a", prognosis=10, severity=60)
    counts = {"train": 10, "val": 20, "test": 0}, {"train": 60, "val": 90, "test": 0}
    return card.model_copy(
        update={
            "images": {"train": 10, "val": 20, "test": None},
            "counts": dict(zip(("prognosis", "severity"), counts, strict=True)),
        }
    )


def report(**examples):
    values = {"steps": 1, "images": 1, "seconds": 0.0, "new_memory": False, "losses": {}}
    validation = {f"{task}/examples": n for task, n in examples.items()}
    return TrainReport(site="a", round=1, validation=validation, **values)


@pytest.mark.parametrize("examples", [15, 17, 20, None])
def test_possible_numbers_are_accepted(card, examples):
    check_report(card, report(prognosis=20, severity=examples))


@pytest.mark.parametrize("examples", [{"severity": 14}, {"severity": 21}, {"prognosis": 19}])
def test_impossible_numbers_are_refused(card, examples):
    with pytest.raises(Refused, match=r"reports \d+ labelled val images of the task"):
        check_report(card, report(**examples))


def test_one_report_cannot_choose_the_released_round(card):
    with pytest.raises(Refused, match="1000000000 labelled val images of the task prognosis"):
        check_report(card, report(prognosis=10**9))


def test_the_final_test_and_the_references_are_compared_too(card):
    metrics = {"val": {"prognosis/examples": 20}, "test": {"prognosis/examples": 5}}
    for wrong in (
        EvaluateReport(site="a", round=1, metrics=metrics),
        ReferenceReport(site="a", round=1, metrics={"constant": metrics}),
    ):
        with pytest.raises(Refused, match="5 labelled test images"):
            check_report(card, wrong)


def test_what_the_card_withholds_is_not_compared(card):
    counts = {"prognosis": dict.fromkeys(("train", "val", "test"))}
    hidden = card.model_copy(
        update={
            "counts": card.counts | counts,
            "images": dict.fromkeys(("train", "val", "test")),
        }
    )
    check_report(hidden, report(prognosis=10**6))
