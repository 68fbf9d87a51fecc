from __future__ import annotations

import json
import math
import warnings

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score

from mdmt.metrics import bootstrap, bootstrap_interval, evaluate_task, weighted_mean_metrics
from mdmt.tasks import Classification, Multilabel, Regression

NAN = math.nan
OUTCOME = Classification(classes=("MILD", "SEVERE"))
SCORE = Regression(outputs=("score",), range=(0, 3))
ZONES = Regression(outputs=("A", "B"), range=(0, 3))


def probabilities(severe: np.ndarray) -> np.ndarray:
    return np.stack([1 - severe, severe], axis=1)


def test_examples_are_samples_with_at_least_one_label() -> None:
    targets = np.array([[0, NAN], [NAN, NAN], [1, 2]], dtype=np.float32)
    result = evaluate_task(ZONES, np.ones((3, 2)), targets)
    assert result["examples"] == 2
    assert result["mae"] == pytest.approx((1 / 2 + 1) / 2)


def test_undefined_metrics_are_null_in_json() -> None:
    result = evaluate_task(OUTCOME, probabilities(np.array([0.2, 0.4])), np.zeros((2, 1)))
    assert result["auroc"] is None
    assert result["accuracy"] == 1.0
    json.dumps(result, allow_nan=False)


def test_a_site_without_labels_has_no_metric() -> None:
    result = evaluate_task(OUTCOME, np.empty((0, 2)), np.empty((0, 1)))
    assert result.pop("examples") == 0
    assert set(result.values()) == {None}


def test_a_diverged_prediction_is_not_left_out_of_the_metrics() -> None:
    targets = np.array([[0.0], [1.0], [1.0], [NAN]])
    severe = np.array([0.1, 0.9, NAN, 0.5])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        result = evaluate_task(OUTCOME, probabilities(severe), targets)
    assert result.pop("examples") == 3
    assert set(result.values()) == {None}
    # Where the diverged prediction is of an unlabelled sample it does not matter.
    assert evaluate_task(OUTCOME, probabilities(severe[[0, 1, 3, 2]]), targets)["auroc"] is not None


def draw_errors(seed: int, patients: int = 40) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Absolute errors of mean 0.5, three identical images per patient."""
    error = np.random.default_rng(seed).uniform(0, 1, patients)
    predictions = np.repeat(error, 3)[:, None]
    return predictions, np.zeros_like(predictions), np.repeat(np.arange(patients).astype(str), 3)


def test_the_interval_covers_the_truth_when_images_repeat_patients() -> None:
    covered = 0
    for seed in range(60):
        low, high = bootstrap_interval(SCORE, *draw_errors(seed), "mae", seed=seed, resamples=200)
        covered += low <= 0.5 <= high
    # Drawing images instead of patients gives intervals 1.7 times too narrow, which cover 0.74.
    assert covered / 60 >= 0.87


def test_the_interval_is_that_of_the_mean_over_patients() -> None:
    predictions, targets, patients = draw_errors(0, patients=100)
    low, high = bootstrap_interval(SCORE, predictions, targets, patients, "mae", seed=0)
    mean = predictions.mean()
    standard_error = predictions[::3].std() / math.sqrt(100)
    assert low == pytest.approx(mean - 1.96 * standard_error, abs=0.15 * standard_error)
    assert high == pytest.approx(mean + 1.96 * standard_error, abs=0.15 * standard_error)


def test_a_lower_level_gives_a_narrower_interval() -> None:
    low, high = bootstrap_interval(SCORE, *draw_errors(0), "mae", seed=0)
    inner_low, inner_high = bootstrap_interval(SCORE, *draw_errors(0), "mae", seed=0, level=0.5)
    assert low < inner_low < inner_high < high


def test_the_interval_depends_on_the_seed_and_not_on_the_order_of_images() -> None:
    predictions, targets, patients = draw_errors(0)
    interval = bootstrap_interval(SCORE, predictions, targets, patients, "mae", seed=1)
    shuffle = np.random.default_rng(0).permutation(len(patients))
    shuffled = predictions[shuffle], targets[shuffle], patients[shuffle]
    assert bootstrap_interval(SCORE, *shuffled, "mae", seed=1) == pytest.approx(interval)
    assert bootstrap_interval(SCORE, predictions, targets, patients, "mae", seed=2) != interval


def test_the_auroc_interval_holds_what_scikit_learn_measures() -> None:
    generator = np.random.default_rng(0)
    targets = np.repeat([0.0, 1.0], 60)[:, None]
    severe = np.clip(generator.normal(0.4 + 0.2 * targets[:, 0], 0.2), 0, 1)
    patients = np.arange(120).astype(str)
    low, high = bootstrap_interval(
        OUTCOME, probabilities(severe), targets, patients, "auroc", seed=0
    )
    area = roc_auc_score(targets[:, 0], severe)
    assert low < area < high
    # Hanley and McNeil (1982), equation 2.
    q1, q2 = area / (2 - area), 2 * area**2 / (1 + area)
    variance = (area * (1 - area) + 59 * (q1 + q2 - 2 * area**2)) / 3600
    assert high - low == pytest.approx(2 * 1.96 * math.sqrt(variance), rel=0.2)


@pytest.mark.parametrize(
    ("targets", "patients"),
    [
        ([NAN, NAN, NAN, NAN], "abcd"),
        ([0.0, 1.0, 0.0, 1.0], "aaaa"),
        ([0.0, 1.0, NAN, NAN], "aabb"),
        ([0.0, 0.0, 0.0, 0.0], "abcd"),
    ],
    ids=["no labels", "one patient", "one labelled patient", "one class"],
)
def test_an_undefined_interval_is_none(targets: list[float], patients: str) -> None:
    predictions = probabilities(np.array([0.1, 0.9, 0.2, 0.8]))
    people = np.array(list(patients))
    truth = np.array(targets)[:, None]
    assert bootstrap_interval(OUTCOME, predictions, truth, people, "auroc", seed=0) == (None, None)


def test_rare_undefined_resamples_do_not_undo_the_interval() -> None:
    # One finding, two patients of each kind: one resample in eight sees one value only.
    task = Multilabel(labels=("x",))
    truth = np.array([[0.0], [0.0], [1.0], [1.0]])

    def area(index: np.ndarray) -> float:
        return task.metric("auroc", truth[index] * 0.5, truth[index])

    assert bootstrap(area, np.array(list("abcd")), seed=0) == (1.0, 1.0)


def test_sites_are_weighted_by_the_support_of_each_task() -> None:
    sites = {
        "a": {"zones/mae": 1.0, "zones/examples": 3, "outcome/auroc": None, "outcome/examples": 5},
        "b": {"zones/mae": 2.0, "zones/examples": 1},
        "c": {"outcome/auroc": 0.75, "outcome/examples": 100},
        "d": {"zones/mae": None, "zones/examples": 0},
    }
    assert weighted_mean_metrics(sites) == {
        "zones/mae": 1.25,
        "zones/examples": 4,
        "outcome/auroc": 0.75,
        "outcome/examples": 105,
    }


def test_a_metric_that_no_site_could_measure_is_none() -> None:
    result = weighted_mean_metrics({"a": {"t/auroc": None, "t/examples": 2}})
    assert result == {"t/auroc": None, "t/examples": 2}
    assert weighted_mean_metrics({}) == {}


def test_where_a_site_does_not_tell_its_examples_all_count_alike() -> None:
    sites = {
        "a": {"t/mae": 1.0, "t/examples": 90},
        "b": {"t/mae": 2.0, "t/examples": None},
        "c": {"t/mae": None, "t/examples": 0},
    }
    assert weighted_mean_metrics(sites) == {"t/mae": 1.5, "t/examples": None}
    # A site that tells neither does not count, and changes no other site's weight.
    sites = {
        "a": {"t/mae": 1.0, "t/examples": 3},
        "b": {"t/mae": 2.0, "t/examples": 1},
        "c": {"t/mae": None, "t/examples": None},
    }
    assert weighted_mean_metrics(sites) == {"t/mae": 1.25, "t/examples": None}


def test_the_mean_does_not_depend_on_the_order_of_sites() -> None:
    generator = np.random.default_rng(0)
    sites = {
        str(i): {"t/mae": float(generator.random()), "t/examples": int(generator.integers(1, 99))}
        for i in range(9)
    }
    backwards = dict(reversed(sites.items()))
    assert weighted_mean_metrics(sites) == weighted_mean_metrics(backwards)


def test_a_statistic_with_several_values_has_an_interval_for_each() -> None:
    """Three of four patients have a label of the first column, none of the second."""
    errors = np.array([[1.0, np.nan], [2.0, np.nan], [3.0, np.nan], [np.nan, np.nan]])

    def means(index: NDArray[np.intp]) -> NDArray[np.float64]:
        return np.asarray(np.ma.masked_invalid(errors[index]).mean(axis=0).filled(np.nan))

    low, high = bootstrap(means, np.array(list("abcd")), seed=0, resamples=2000)
    assert (low[0], high[0]) == pytest.approx((1.0, 3.0), abs=0.01)
    assert np.isnan([low[1], high[1]]).all()


def test_a_largest_weight_limits_what_many_claimed_images_decide():
    sites = {
        "a": {"t/auroc": 0.5, "t/examples": 40},
        "b": {"t/auroc": 0.7, "t/examples": 60},
        "x": {"t/auroc": 1.0, "t/examples": 10**9},
    }
    assert weighted_mean_metrics(sites)["t/auroc"] == pytest.approx(1.0)
    limited = weighted_mean_metrics(sites, 0.5)["t/auroc"]
    assert limited == pytest.approx(0.2 * 0.5 + 0.3 * 0.7 + 0.5 * 1.0)
    assert weighted_mean_metrics(sites, 0.9999999999) == weighted_mean_metrics(sites)
