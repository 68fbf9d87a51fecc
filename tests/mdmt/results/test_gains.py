"""Gains of arms over comparators, on numbers that can be checked by hand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest
from pydantic import TypeAdapter

from mdmt.results import gains
from mdmt.results.gains import MEAN, gain_tables
from mdmt.results.predictions import CellName, Predictions, TestSets
from mdmt.results.studies import Result, Study
from mdmt.tasks import AnyTask, Task

KINDS = {
    "age": {"kind": "regression", "outputs": ["age"], "range": [0, 100]},
    "crp": {"kind": "regression", "outputs": ["crp"], "range": [0, 100]},
    "death": {"kind": "classification", "classes": ["no", "yes"]},
}
SPACES: Mapping[str, Task] = {
    name: TypeAdapter[Task](AnyTask).validate_python(kind) for name, kind in KINDS.items()
}
TRUTH = [0.0, 4.0]


def numbers(
    arm: str,
    errors: Sequence[float],
    *,
    truth: Sequence[float] = TRUTH,
    task: str = "age",
    site: str = "a",
    seed: int = 0,
    patients: Sequence[str] = "pq",
) -> Predictions:
    """Predictions of a number per patient with these errors."""
    targets = np.array(truth)[:, None]
    return Predictions(
        *(arm, "tiny", seed, site, task, SPACES[task]),
        tuple(("0", name) for name in patients),
        np.array(list(patients)),
        targets,
        targets + np.array(errors)[:, None],
    )


def tables(
    predictions: list[Predictions], chosen: Mapping[str, str] | None = None, **config: Any
) -> dict[str, list[dict[str, Any]]]:
    arms = list(dict.fromkeys(one.arm for one in predictions))
    config = {
        "target": "age",
        "comparators": ["local"],
        "arms": [{"kind": "local" if arm == "local" else "federated", "name": arm} for arm in arms],
    } | config
    cell = CellName("tiny", "0", 0)
    study = Study(
        folder=None,  # type: ignore[arg-type]
        config=config,
        facts={},
        spaces=SPACES,
        results=[Result("local", cell, "a", "age", "mae", 1.0, 2)],
        predictions=predictions,
        tests=TestSets(predictions, redrawn=bool(config.get("redraw"))),
        statistics=None,
        cells={},
    )
    return gain_tables(study, chosen)


def test_a_gain_is_positive_where_the_arm_is_better_and_is_drawn_by_patient() -> None:
    """Errors 2 and 4 of local, 1 and 1 of ours: gains 1 and 3, so 1, 2 or 3 in a resample."""
    found = tables([numbers("local", [2, 4]), numbers("ours", [1, -1])], margins={"age": 0.5})
    (row,) = found["gains"]
    assert (row["arm"], row["comparator"], row["site"]) == ("ours", "local", "a")
    assert (row["gain"], row["low"], row["high"]) == (2.0, 1.0, 3.0)
    # The best constant, 2, has an error of 2.
    assert (row["standardised"], row["standardised_low"]) == (1.0, 0.5)
    assert row["not_worse"] is True
    assert row["p"] == row["p_holm"] == pytest.approx(2 / 1001), "no resample is below 0"
    (endpoint,) = found["endpoint"]
    assert (endpoint["gain"], endpoint["low"], endpoint["high"]) == (1.0, 0.5, 1.5)
    values = {row["arm"]: (row["value"], row["low"], row["high"]) for row in found["out_of_fold"]}
    assert values == {"local": (3.0, 2.0, 4.0), "ours": (1.0, 1.0, 1.0)}


def test_a_difference_is_paired_by_patient() -> None:
    """Patients differ much, the two arms by exactly 1 on each: no resample gives another gain."""
    people = "abcdefgh"
    errors = np.arange(8.0) * 10
    truth = np.zeros(8)
    truth[0] = 1
    local = numbers("local", errors + 1, truth=truth, patients=people)
    ours = numbers("ours", errors, truth=truth, patients=people)
    found = tables([local, ours])
    (row,) = found["gains"]
    assert (row["gain"], row["low"], row["high"]) == pytest.approx((1, 1, 1))
    assert found["out_of_fold"][0]["high"] - found["out_of_fold"][0]["low"] > 20


def test_a_patient_of_two_sites_is_drawn_at_both() -> None:
    """What a patient gains at one site it loses at the other: the mean over sites never varies."""
    made = []
    for site, sign in (("a", 1), ("b", -1)):
        made += [
            numbers("local", [5, 5, 5], site=site, patients="pqr", truth=[0, 0, 1]),
            numbers(
                "ours",
                [5 - sign * 1, 5 - sign * 2, 5 - sign * 3],
                site=site,
                patients="pqr",
                truth=[0, 0, 1],
            ),
        ]
    a, b, both = tables(made)["gains"]
    assert (a["gain"], b["gain"], both["gain"]) == (2, -2, 0)
    assert (both["site"], both["p"], a["p"]) == (MEAN, 1, None)
    assert (both["low"], both["high"]) == pytest.approx((0, 0), abs=1e-12)
    assert (a["low"], a["high"]) == (1, 3)


def test_seeds_are_averaged_within_a_resample() -> None:
    """Gains of 1 and 3 on every patient: 2, and no spread over patients."""
    made = [numbers("local", [4, 4], seed=seed) for seed in (0, 1)]
    made += [numbers("ours", [4 - gain] * 2, seed=seed) for seed, gain in ((0, 1), (1, 3))]
    (row,) = tables(made)["gains"]
    assert (row["gain"], row["low"], row["high"]) == (2, 2, 2)


@pytest.mark.parametrize(("redraw", "narrow"), [(False, False), (True, True)])
def test_a_redrawn_patient_of_another_seed_is_another_patient(redraw: bool, narrow: bool) -> None:
    """The same two names in eight seeds are two patients, or sixteen: the interval is narrower."""
    made = [numbers("local", [2, 4], seed=seed) for seed in range(8)]
    made += [numbers("ours", [1, 1], seed=seed) for seed in range(8)]
    (row,) = tables(made, redraw=redraw)["gains"]
    assert row["gain"] == 2
    assert (row["low"], row["high"]) == pytest.approx((1, 3)) or narrow
    assert (row["high"] - row["low"] < 1.5) == narrow


def test_the_best_comparator_is_that_of_each_task_unless_it_was_chosen_before() -> None:
    made = []
    for task, local, probe in (("age", 3, 2), ("crp", 2, 3)):
        for arm, error in (("local", local), ("probe", probe), ("ours", 1)):
            made.append(numbers(arm, [error, error], task=task))
    config = {"targets": ["age", "crp"], "comparators": ["local", "probe"]}

    def against(chosen: Mapping[str, str] | None = None) -> dict[tuple[str, str], Any]:
        found = tables(made, chosen, **config)
        rows = {(row["comparator"], row["task"]): row for row in found["gains"]}
        ends = {row["comparator"]: row["gain"] for row in found["endpoint"]}
        assert ends == {
            name: (rows[name, "age"]["standardised"] + rows[name, "crp"]["standardised"]) / 2
            for name in ("local", "probe", "best")
        }
        return rows

    rows = against()
    assert [rows["best", task]["against"] for task in ("age", "crp")] == ["probe", "local"]
    assert [rows["best", task]["gain"] for task in ("age", "crp")] == [1, 1]
    assert rows["local", "age"]["gain"] == 2
    rows = against({"age": "local", "crp": "local"})
    assert [rows["best", task]["gain"] for task in ("age", "crp")] == [2, 1]


def test_holm_corrects_for_the_targets_and_a_margin_is_of_its_task() -> None:
    made = [numbers("local", [2, 4]), numbers("ours", [1, 1])]
    made += [numbers("local", [2, 2], task="crp"), numbers("ours", [2.5, 2.5], task="crp")]
    found = tables(made, targets=["age", "crp"], margins={"age": 0.1, "crp": 0.4})
    age, crp = found["gains"]
    assert age["p_holm"] == pytest.approx(2 * 2 / 1001)
    assert (crp["gain"], crp["not_worse"], crp["margin"]) == (-0.5, False, 0.4)
    (endpoint,) = found["endpoint"]
    assert endpoint["targets"] == 2
    assert endpoint["gain"] == pytest.approx((1.0 - 0.25) / 2)


def test_an_auroc_ranks_within_folds_and_its_floor_is_a_half() -> None:
    """Fold 1 ranks its two images rightly, fold 2 wrongly: ½, though together they would be 1."""

    def classes(arm: str, scores: Sequence[float]) -> Predictions:
        positive = np.array(scores)
        return Predictions(
            *(arm, "tiny", 0, "a", "death", SPACES["death"]),
            (("1", "p"), ("1", "q"), ("2", "r"), ("2", "s")),
            np.array(list("pqrs")),
            np.array([[0.0], [1.0], [0.0], [1.0]]),
            np.column_stack([1 - positive, positive]),
        )

    made = [classes("local", [0.1, 0.2, 0.9, 0.8]), classes("ours", [0.1, 0.2, 0.8, 0.9])]
    found = tables(made, target="death")
    values = {(row["arm"], row["metric"]): row["value"] for row in found["out_of_fold"]}
    assert values["local", "auroc"] == 0.5
    assert values["ours", "auroc"] == 1.0
    assert values["ours", "balanced_accuracy"] == 0.5
    (row,) = found["gains"]
    assert (row["gain"], row["standardised"]) == (0.5, 1.0)


def test_an_arm_that_lacks_a_site_or_diverged_has_no_endpoint() -> None:
    made = [numbers(arm, [1, 1], site=site) for arm in ("local", "ours") for site in "ab"]
    found = tables([one for one in made if (one.arm, one.site) != ("ours", "b")])
    assert [row["site"] for row in found["gains"]] == ["a"]
    assert found["endpoint"] == []
    found = tables([numbers("local", [1, 1]), numbers("ours", [np.nan, 1])])
    (row,) = found["gains"]
    assert (row["gain"], row["low"], row["p"]) == (None, None, None)


def test_a_study_without_comparators_draws_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gains, "_draw", None)
    assert tables([numbers("local", [1, 1])], comparators=[]) == {
        "out_of_fold": [],
        "gains": [],
        "endpoint": [],
    }
