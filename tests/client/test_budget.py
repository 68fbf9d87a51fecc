"""The budget of messages outlasts runs, run ids and restarts, and a refused order costs nothing."""

from __future__ import annotations

import json

import numpy as np
import pytest
from deployed_site import refusal, report, update

from client.budget import Budget
from mdmt.blob import unpack
from mdmt.errors import PolicyError, StateError

USED = "policy: max_messages allows 2 messages for this recipe, all are used"
RECIPE, OTHER = "a" * 64, "b" * 64


def spent(site):
    return Budget(site.folder / "state" / "budget.json").spent(site.config.hash)


def test_a_new_run_id_starts_no_new_budget(ward):
    site = ward({"max_messages": 2})
    update(site.train(run="1" * 12))
    update(site.train(run="2" * 12))
    assert refusal(site.train(run="3" * 12)) == USED
    assert refusal(site.evaluate(0)) == USED
    assert spent(site) == 2
    assert not (site.folder / "state" / "test" / ("3" * 12)).exists()


def test_each_kind_of_message_is_paid(ward):
    site = ward({"max_messages": 9}, references=["constant"])
    report(site.query())
    update(site.train())
    report(site.evaluate(0))
    report(site.reference())
    assert spent(site) == 4


def test_a_repeated_order_costs_nothing_when_its_reply_is_stored_or_its_process_was_killed(
    ward, monkeypatch
):
    site = ward({"max_messages": 1})

    def killed(*_, **__):
        raise SystemExit

    with monkeypatch.context() as patch:
        patch.setattr("client.site.evaluate", killed)
        with pytest.raises(SystemExit):
            site.train()
    assert spent(site) == 1, "it was paid before it ran"
    first = update(site.train())
    assert update(site.train()) == first
    assert spent(site) == 1


def test_an_earlier_order_is_paid_again(ward):
    """Its answer would be new: the site's memory of the round before has changed."""
    site = ward({"max_messages": 9})
    arrays = {n: np.array(v) for n, v in unpack(update(site.train())).items()}
    second = update(site.train(2, arrays=arrays))
    update(site.train(coefficients={"prognosis": 0.5}))
    assert update(site.train(2, arrays=arrays)) != second
    assert spent(site) == 4


def test_a_card_is_paid_when_it_changes(ward):
    """A count before and after a patient joins tells whether this patient is ill."""
    site = ward({"max_messages": 2})
    card = report(site.query())
    assert report(site.query()) == card
    assert spent(site) == 1
    site.write(dataset=site.site["dataset"] | {"patients": 21})
    assert report(site.query()) != card
    assert spent(site) == 2
    site.write(dataset=site.site["dataset"] | {"patients": 22})
    assert refusal(site.query()) == f"site ward: {USED}"


@pytest.mark.parametrize(
    ("policy", "order"),
    [
        ({"max_rounds": 1}, {}),
        ({"min_examples": 1000}, {}),
        ({"min_patients_per_update": 1000}, {}),
        ({}, {"coefficients": {}}),
        ({}, {"arrays": bytes(100)}),
    ],
)
def test_a_refused_order_costs_nothing(ward, policy, order):
    site = ward({"max_messages": 2} | policy)
    refusal(site.train(**order))
    assert spent(site) == 0


def test_a_full_disk_stops_the_order_before_it_runs(ward, monkeypatch):
    site = ward({"max_messages": 2})

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("client.budget.write_json", full)
    monkeypatch.setattr("client.site.evaluate", lambda *_: pytest.fail("the order ran"))
    assert refusal(site.train()) == "OSError at the site; its own log says more"


def test_payments_of_one_recipe_do_not_count_for_another(tmp_path):
    budget = Budget(tmp_path / "budget.json")
    for number in range(3):
        budget.pay(RECIPE, 3, "order", str(number))
    budget.pay(OTHER, 3, "order", "0")
    again = Budget(tmp_path / "budget.json")
    assert (again.spent(RECIPE), again.spent(OTHER)) == (3, 1)
    with pytest.raises(PolicyError, match="max_messages allows 3"):
        again.pay(RECIPE, 3, "order", "3")


def test_a_card_between_two_equal_orders_changes_nothing(tmp_path):
    budget = Budget(tmp_path / "budget.json")
    for purpose, identity in (("order", "x"), ("card", "y"), ("order", "x"), ("card", "y")):
        budget.pay(RECIPE, 9, purpose, identity)
    assert budget.spent(RECIPE) == 2


@pytest.mark.parametrize("text", ["", "[]", '{"recipes": {"a": {"spent": -1}}}', "{"])
def test_a_damaged_file_is_no_new_budget(tmp_path, text):
    (tmp_path / "budget.json").write_text(text)
    with pytest.raises(StateError, match="is damaged"):
        Budget(tmp_path / "budget.json").pay(RECIPE, 3, "order", "x")


def test_only_the_owner_reads_the_file(tmp_path):
    Budget(tmp_path / "budget.json").pay(RECIPE, 3, "order", "x")
    assert (tmp_path / "budget.json").stat().st_mode & 0o777 == 0o600
    assert json.loads((tmp_path / "budget.json").read_text())["recipes"][RECIPE]["spent"] == 1
