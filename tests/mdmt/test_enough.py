"""Choices, intervals and verdicts need a minimum of patients; differences are paired by patient."""

from __future__ import annotations

import numpy as np
import pytest

from mdmt.compare import Difference, paired_differences
from mdmt.enough import enough_to_choose
from mdmt.metrics import bootstrap_interval, count_patients
from mdmt.results.verdicts import Gain
from mdmt.tasks import Classification, Multilabel, Regression

OUTCOME = Classification(classes=("MILD", "SEVERE"))
AGE = Regression(outputs=("age",), range=(0, 100), unit="years")


@pytest.mark.parametrize(
    ("patients", "of_each_class", "enough"),
    [
        (30, (20, 10), True),
        (29, (15, 14), False),
        (500, (491, 9), False),
        (500, (), True),  # numbers have no classes
        (500, (400, 100, 490, 10, 500, 0), False),  # a finding that nobody has
    ],
)
def test_enough_to_choose(patients: int, of_each_class: tuple[int, ...], enough: bool) -> None:
    assert enough_to_choose(patients, of_each_class) is enough


def test_patients_are_counted_by_class_not_images() -> None:
    targets = np.array([[1.0], [1.0], [0.0], [1.0], [np.nan]])
    patients = np.array(["a", "a", "b", "b", "c"])
    found = count_patients(OUTCOME, targets, patients)
    assert found == {"patients": 2, "positives_SEVERE": 2, "negatives_SEVERE": 1}
    assert count_patients(AGE, targets, patients) == {"patients": 2}


def scores(n_positive: int, n_negative: int, skill: float, seed: int = 0) -> np.ndarray:
    """Probabilities (N, 2); the positives come first and score `skill` deviations higher."""
    draws = np.random.default_rng(seed).normal(size=n_positive + n_negative)
    draws[:n_positive] += skill
    positive = 1 / (1 + np.exp(-draws))
    return np.column_stack([1 - positive, positive])


def truth(n_positive: int, n_negative: int) -> np.ndarray:
    return np.array([[1.0]] * n_positive + [[0.0]] * n_negative)


def people(n: int) -> np.ndarray:
    return np.array([f"p{number:04d}" for number in range(n)])


@pytest.mark.parametrize(("positives", "known"), [(4, False), (9, False), (10, True)])
def test_no_interval_of_few_positives(positives: int, known: bool) -> None:
    """62 test patients with 4 positives once gave a DeLong p below .001."""
    negatives = 62 - positives
    targets, patients = truth(positives, negatives), people(62)
    good, bad = scores(positives, negatives, 2.0), scores(positives, negatives, 0.0, seed=1)
    low, high = bootstrap_interval(OUTCOME, good, targets, patients, "auroc", seed=0, resamples=50)
    assert (low is not None and high is not None) is known
    (found,) = paired_differences(
        OUTCOME, {"good": good}, bad, targets, patients, seed=0, resamples=50
    ).values()
    assert found.value is not None
    assert found.value > 0.2
    assert (found.low is not None) is known
    assert Gain(*found, better="higher").verdict == ("better" if known else "no difference shown")


def test_a_finding_of_few_patients_makes_the_mean_of_findings_uncertain() -> None:
    task = Multilabel(labels=("common", "rare"))
    targets = np.zeros((60, 2))
    targets[:30, 0], targets[:4, 1] = 1, 1
    predictions = np.random.default_rng(0).random((60, 2))
    interval = bootstrap_interval(task, predictions, targets, people(60), "auroc", seed=0)
    assert interval == (None, None)
    targets[:, 1] = 0  # nobody has it: it is not part of the mean
    low, high = bootstrap_interval(
        task, predictions, targets, people(60), "auroc", seed=0, resamples=50
    )
    assert low is not None
    assert high is not None


def test_difference_is_paired() -> None:
    """Both models err by the same large amounts; one errs by a year more on everybody."""
    rng = np.random.default_rng(0)
    targets = rng.uniform(20, 80, (40, 1))
    errors = rng.uniform(2, 18, (40, 1))
    found = paired_differences(
        AGE,
        {"worse": targets + errors + 1, "equal": targets + errors},
        targets + errors,
        targets,
        people(40),
        seed=0,
        resamples=100,
    )
    assert found["worse"] == pytest.approx((1.0, 1.0, 1.0))
    assert found["equal"] == Difference(0.0, 0.0, 0.0)
    assert Gain(*found["equal"], better="lower").verdict == "no difference shown"
    assert Gain(*found["worse"], better="lower").verdict == "worse"


def test_images_of_a_patient_are_drawn_together() -> None:
    """Every image twice says nothing new: the interval stays as wide as it was."""
    targets, patients = truth(15, 25), people(40)
    good, bad = scores(15, 25, 1.0), scores(15, 25, 0.0, seed=1)
    once = paired_differences(OUTCOME, {"m": good}, bad, targets, patients, seed=3, resamples=60)
    doubled = [np.repeat(array, 2, axis=0) for array in (good, bad, targets, patients)]
    twice = paired_differences(OUTCOME, {"m": doubled[0]}, *doubled[1:], seed=3, resamples=60)
    assert twice["m"] == pytest.approx(once["m"])


def test_a_model_that_diverged_has_no_difference() -> None:
    targets, patients = truth(15, 25), people(40)
    good, bad = scores(15, 25, 1.0), np.full((40, 2), np.nan)
    found = paired_differences(
        OUTCOME, {"m": bad, "n": good}, good, targets, patients, seed=0, resamples=20
    )
    assert found["m"] == Difference(None, None, None)
    assert found["n"].value == 0
