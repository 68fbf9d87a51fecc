from __future__ import annotations

import math
import warnings

import numpy as np
import pytest
import torch
from pydantic import TypeAdapter, ValidationError
from sklearn import metrics as sk

from mdmt.tasks import AnyTask, Classification, Multilabel, Ordinal, Regression, Task
from mdmt.tasks.statistics import auroc

NAN = math.nan
OUTCOME = Classification(classes=("MILD", "SEVERE"))
SIDE = Classification(classes=("LEFT", "NONE", "RIGHT"), mirror={"LEFT": "RIGHT"})
ZONES = Regression(outputs=("A", "B", "D"), range=(0, 3), mirror={"A": "D"})
LEVELS = Ordinal(outputs=("A", "B", "D"), levels=4, mirror={"A": "D"})
FINDINGS = Multilabel(labels=("edema", "left", "right"), mirror={"left": "right"})
KINDS = [OUTCOME, SIDE, ZONES, LEVELS, FINDINGS]
by_kind = pytest.mark.parametrize("task", KINDS, ids=lambda task: f"{task.kind}{task.width}")


def column(*values: float) -> np.ndarray:
    return np.array(values, dtype=np.float32)[:, None]


def some_targets(task: Task, rows: int = 6) -> np.ndarray:
    """Valid targets of every value, one row in four unlabelled."""
    top = len(task.labels) if task.kind == "classification" else 2
    targets = np.arange(rows * task.width).reshape(rows, task.width) % top
    targets = targets.astype(np.float32)
    targets[::4] = NAN
    return targets


@pytest.mark.parametrize(
    ("declared", "message"),
    [
        ({"kind": "classification", "classes": ["MILD"]}, "at least 2"),
        ({"kind": "classification", "classes": ["MILD", "MILD"]}, "MILD is given twice"),
        ({"kind": "classification", "classes": ["MILD", ""]}, "spaces"),
        ({"kind": "classification", "classes": ["MILD", " SEVERE"]}, "spaces"),
        ({"kind": "classification", "classes": [0, 1]}, "valid string"),
        ({"kind": "regression", "outputs": [], "range": [0, 3]}, "at least one name"),
        ({"kind": "regression", "outputs": ["A"], "range": [3, 3]}, "low < high"),
        ({"kind": "regression", "outputs": ["A"], "range": [0, math.inf]}, "finite"),
        ({"kind": "ordinal", "outputs": ["A"], "levels": 1}, "greater than or equal to 2"),
        ({"kind": "ordinal", "outputs": ["A", "A"], "levels": 4}, "A is given twice"),
        ({"kind": "multilabel", "labels": ["x"], "levels": 4}, "no such key"),
        ({"kind": "multilabel", "labels": ["x", "y"], "mirror": {"x": "z"}}, "z is none of x, y"),
        ({"kind": "ordinal", "outputs": list("ABD"), "levels": 4, "mirror": {"A": "D", "B": "D"}},
         "two partners"),
        ({"kind": "ordinal", "outputs": list("ABD"), "levels": 4, "mirror": {"A": "D", "D": "B"}},
         "two partners"),
        ({"kind": "survival", "outputs": ["A"]}, "unknown task kind survival; known:"),
    ],
)  # fmt: skip
def test_a_label_space_that_makes_no_sense_is_refused(declared: dict, message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        TypeAdapter(AnyTask).validate_python(declared)


@by_kind
def test_a_task_survives_json(task: Task) -> None:
    assert TypeAdapter(AnyTask).validate_json(task.model_dump_json()) == task


@pytest.mark.parametrize(
    ("task", "text", "target"),
    [
        (OUTCOME, "SEVERE", 1.0),
        (ZONES, "0", 0.0),
        (ZONES, "2.5", 2.5),
        (ZONES, "3", 3.0),
        (LEVELS, "3", 3.0),
        (LEVELS, "2.0", 2.0),
        (FINDINGS, "0", 0.0),
        (FINDINGS, "1.0", 1.0),
    ],
)
def test_a_written_label_becomes_its_target(task: Task, text: str, target: float) -> None:
    assert task.encode(task.columns[0], text) == target


@pytest.mark.parametrize(
    ("task", "text", "expected"),
    [
        (OUTCOME, "severe", "one of MILD, SEVERE"),
        (ZONES, "3.01", "from 0 to 3"),
        (ZONES, "-1", "from 0 to 3"),
        (ZONES, "nan", "from 0 to 3"),
        (ZONES, "inf", "from 0 to 3"),
        (ZONES, "two", "from 0 to 3"),
        (LEVELS, "4", "from 0 to 3"),
        (LEVELS, "1.5", "from 0 to 3"),
        (LEVELS, "-1", "from 0 to 3"),
        (LEVELS, "nan", "from 0 to 3"),
        (LEVELS, "inf", "from 0 to 3"),
        (FINDINGS, "2", "0 or 1"),
        (FINDINGS, "-1", "0 or 1"),
    ],
)
def test_text_that_is_no_label_is_refused(task: Task, text: str, expected: str) -> None:
    with pytest.raises(ValueError, match=expected):
        task.encode(task.columns[0], text)


@by_kind
def test_mirroring_twice_changes_nothing(task: Task) -> None:
    targets = torch.from_numpy(some_targets(task))
    twice = task.mirrored(task.mirrored(targets))
    torch.testing.assert_close(twice, targets, equal_nan=True, rtol=0, atol=0)


@pytest.mark.parametrize("mirror", [{"A": "D"}, {"D": "A"}, {"A": "D", "D": "A"}])
def test_a_flip_exchanges_the_declared_zones(mirror: dict[str, str]) -> None:
    zones = Regression(outputs=("A", "B", "D"), range=(0, 3), mirror=mirror)
    flipped = zones.mirrored(torch.tensor([[1.0, 2.0, NAN]]))
    torch.testing.assert_close(flipped, torch.tensor([[NAN, 2.0, 1.0]]), equal_nan=True)


def test_a_flip_exchanges_the_declared_classes() -> None:
    flipped = SIDE.mirrored(torch.tensor([[0.0], [1.0], [2.0], [NAN]]))
    expected = torch.tensor([[2.0], [1.0], [0.0], [NAN]])
    torch.testing.assert_close(flipped, expected, equal_nan=True)


def test_several_outputs_without_a_mirror_have_no_flip() -> None:
    assert Ordinal(outputs=("A", "D"), levels=4).mirror_permutation() is None
    assert Ordinal(outputs=("A", "D"), levels=4, mirror={}).mirror_permutation() == (0, 1)
    assert OUTCOME.mirror_permutation() == (0, 1)


@by_kind
def test_decoding_gives_numbers_in_range_even_for_huge_outputs(task: Task) -> None:
    outputs = np.random.default_rng(0).normal(0, 1000, (20, task.n_outputs)).astype(np.float32)
    predictions = task.decode(outputs)
    top = {"regression": 3, "ordinal": 3}.get(task.kind, 1)
    assert predictions.shape == (20, len(task.prediction_names))
    assert np.isfinite(predictions).all()
    assert predictions.min() >= 0
    assert predictions.max() <= top


def test_decoding_by_hand() -> None:
    log = math.log
    np.testing.assert_allclose(OUTCOME.decode(np.array([[0.0, log(3)]])), [[0.25, 0.75]])
    # Middle 1.5, half 1.5: 0 → 1.5, -1 → 0, 2 → 4.5, clipped to 3.
    np.testing.assert_allclose(ZONES.decode(np.array([[0.0, -1.0, 2.0]])), [[1.5, 0.0, 3.0]])
    levels = Ordinal(outputs=("A", "B"), levels=3)
    # A: weights 1:1:2 → (0 + 1 + 4)/4; B: 3:1:1 → (0 + 1 + 2)/5.
    outputs = np.array([[0.0, 0.0, log(2), log(3), 0.0, 0.0]])
    np.testing.assert_allclose(levels.decode(outputs), [[1.25, 0.6]])
    np.testing.assert_allclose(
        FINDINGS.decode(np.array([[0.0, log(3), -log(3)]])), [[0.5, 0.75, 0.25]]
    )


def test_the_constant_prediction_by_hand() -> None:
    np.testing.assert_allclose(SIDE.constant(column(0, 0, 0, 2, NAN)), [0.75, 0.0, 0.25])
    scores = np.array([[0, 1, NAN], [1, NAN, NAN], [3, 2, NAN]], dtype=np.float32)
    np.testing.assert_allclose(ZONES.constant(scores), [1.0, 1.5, 1.5])
    np.testing.assert_allclose(LEVELS.constant(scores), [1.0, 1.5, 1.5])
    findings = np.array([[0, 1, NAN], [0, NAN, NAN], [1, 1, NAN], [0, 1, NAN]])
    np.testing.assert_allclose(FINDINGS.constant(findings), [0.25, 1.0, 0.5])


@by_kind
def test_the_constant_prediction_without_labels_is_neutral(task: Task) -> None:
    constant = task.constant(np.full((2, task.width), NAN))
    neutral = {"classification": 1 / len(task.labels), "multilabel": 0.5}.get(task.kind, 1.5)
    np.testing.assert_allclose(constant, np.full(len(task.prediction_names), neutral))


def test_balanced_weights_give_every_class_the_same_total() -> None:
    # 3 LEFT, 1 RIGHT, NONE absent: 4/(2·3) and 4/(2·1); totals 2 and 2.
    np.testing.assert_allclose(SIDE.balanced_weights(column(0, 0, 0, 2, NAN)), [2 / 3, 1, 2])
    findings = np.array([[0, 1, NAN], [0, 1, NAN], [0, 1, 0], [1, NAN, 0]])
    np.testing.assert_allclose(FINDINGS.balanced_weights(findings), [3, 1, 1])
    assert ZONES.balanced_weights(np.zeros((2, 3))) is None


def test_histograms_count_labels_and_leave_out_missing_ones() -> None:
    assert SIDE.histogram(column(0, 0, 2, NAN)) == {"": {"LEFT": 2, "NONE": 0, "RIGHT": 1}}
    scores = np.array([[0, 3, NAN], [3, 3, NAN]], dtype=np.float32)
    a, b, d = ({"0": n0, "1": 0, "2": 0, "3": n3} for n0, n3 in [(1, 1), (0, 2), (0, 0)])
    assert LEVELS.histogram(scores) == ZONES.histogram(scores) == {"A": a, "B": b, "D": d}
    findings = np.array([[0, 1, NAN], [1, 1, NAN]])
    assert FINDINGS.histogram(findings)["left"] == {"0": 0, "1": 2}
    fraction = Regression(outputs=("area",), range=(0, 1))
    counts = fraction.histogram(column(0.0, 0.05, 0.95, 1.0))["area"]
    assert (counts["0 to 0.1"], counts["0.9 to 1"], len(counts)) == (2, 2, 10)


@by_kind
@pytest.mark.parametrize(
    "targets",
    [
        lambda task: np.empty((0, task.width)),
        lambda task: np.full((3, task.width), NAN),
        lambda task: np.zeros((1, task.width)),
        lambda task: np.zeros((3, task.width)),
    ],
    ids=["no samples", "no labels", "one sample", "one value"],
)
def test_undefined_metrics_are_nan_without_a_warning(task: Task, targets) -> None:
    truth = targets(task)
    predictions = np.tile(task.decode(np.zeros((1, task.n_outputs))), (len(truth), 1))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        result = task.metrics(predictions, truth)
    assert result.keys() == task.metrics(predictions[:0], truth[:0]).keys()
    undefined = {name for name, value in result.items() if math.isnan(value)}
    assert {"auroc", "pearson", "r2", "gmean", "balanced_accuracy"} & result.keys() <= undefined
    if not np.isfinite(truth).any():
        assert undefined == result.keys()
    else:
        assert not {"accuracy", "brier", "mae", "sum_mae"} & undefined


def test_rounding_noise_in_a_constant_prediction_is_not_a_correlation() -> None:
    task = Regression(outputs=("A",), range=(0, 3))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        result = task.metrics(1.5 + np.array([[0], [1], [0]]) * 1e-15, column(0, 1, 2))
    assert math.isnan(result["pearson"])


def test_classification_metrics_by_hand() -> None:
    # Chosen: MILD MILD SEVERE SEVERE of true MILD SEVERE SEVERE SEVERE; the last row is unlabelled.
    severe = np.array([0.1, 0.4, 0.6, 0.8, 0.9])
    result = OUTCOME.metrics(np.stack([1 - severe, severe], axis=1), column(0, 1, 1, 1, NAN))
    expected = {
        "accuracy": 3 / 4,
        "balanced_accuracy": (1 + 2 / 3) / 2,
        "gmean": math.sqrt(2 / 3),
        "precision": (1 * 1 / 2 + 3 * 1) / 4,
        "recall": 3 / 4,
        "f1": (1 * 2 / 3 + 3 * 4 / 5) / 4,
        "auroc": 1.0,
        "brier": (0.01 + 0.36 + 0.16 + 0.04) / 4,
    }
    assert result == pytest.approx(expected)


def test_auroc_comes_from_probabilities_not_from_chosen_classes() -> None:
    # Everything is chosen MILD, so hard labels would give 0.5; the order is perfect.
    severe = np.array([0.1, 0.2, 0.3, 0.4])
    targets = column(0, 0, 1, 1)
    assert OUTCOME.metrics(np.stack([1 - severe, severe], axis=1), targets)["auroc"] == 1.0
    findings = Multilabel(labels=("x",))
    assert findings.metrics(severe[:, None], targets)["auroc"] == 1.0


def test_auroc_equals_scikit_learn_with_ties() -> None:
    generator = np.random.default_rng(0)
    for _ in range(20):
        truth = np.append(generator.integers(0, 2, 30), [0, 1]) == 1
        scores = generator.integers(0, 6, 32) / 5
        assert auroc(truth, scores) == pytest.approx(sk.roc_auc_score(truth, scores), abs=1e-12)


def test_several_classes_agree_with_scikit_learn() -> None:
    generator = np.random.default_rng(1)
    probabilities = generator.dirichlet(np.ones(3), 50)
    targets = column(*generator.integers(0, 3, 50))
    truth, chosen = targets[:, 0], probabilities.argmax(axis=1)
    result = SIDE.metrics(probabilities, targets)
    assert result["auroc"] == pytest.approx(
        sk.roc_auc_score(truth, probabilities, multi_class="ovr", average="macro")
    )
    assert result["balanced_accuracy"] == pytest.approx(sk.balanced_accuracy_score(truth, chosen))
    assert result["f1"] == pytest.approx(sk.f1_score(truth, chosen, average="weighted"))
    assert result["brier"] == pytest.approx(
        ((probabilities - np.eye(3)[truth.astype(int)]) ** 2).sum(1).mean()
    )
    recalls = sk.recall_score(truth, chosen, average=None)
    assert result["gmean"] == pytest.approx(recalls.prod() ** (1 / 3))


def test_a_class_absent_from_the_samples_is_left_out_of_class_means() -> None:
    probabilities = np.array([[0.8, 0.1, 0.1], [0.3, 0.1, 0.6], [0.2, 0.1, 0.7]])
    result = SIDE.metrics(probabilities, column(0, 0, 2))
    assert result["auroc"] == 1.0
    assert result["balanced_accuracy"] == pytest.approx((1 / 2 + 1) / 2)


@pytest.mark.parametrize("task", [ZONES, LEVELS], ids=["regression", "ordinal"])
def test_error_metrics_by_hand(task: Task) -> None:
    targets = np.array([[0, 1, 2], [1, 1, NAN], [2, 3, 3]], dtype=np.float32)
    predictions = np.array([[1.0, 1.0, 2.0], [1.0, 0.0, 0.0], [1.0, 2.0, 3.0]])
    result = task.metrics(predictions, targets)
    assert result["mae_A"] == pytest.approx(2 / 3)
    assert result["mae_B"] == pytest.approx(2 / 3)
    assert result["mae_D"] == 0.0
    # A mean of the outputs' means: pooling the 8 labels would give 4/8.
    assert result["mae"] == pytest.approx((2 / 3 + 2 / 3 + 0) / 3)
    assert result["mse"] == pytest.approx((2 / 3 + 2 / 3 + 0) / 3)
    assert math.isnan(result["pearson_A"])
    # B: deviations (0, -1, 1) and (-2/3, -2/3, 4/3): r = 2 / sqrt(2 · 8/3).
    assert result["pearson_B"] == pytest.approx(2 / math.sqrt(16 / 3))
    assert result["pearson_D"] == pytest.approx(1.0)
    assert result["pearson"] == pytest.approx((2 / math.sqrt(16 / 3) + 1) / 2)
    # R²: A 1 - 2/2, B 1 - 2/(8/3), D 1.
    assert result["r2"] == pytest.approx((0 + 1 / 4 + 1) / 3)
    # Errors of A: 1, 0, -1; of B: 0, -1, -1; of D: 0, 0.
    assert result["sd"] == pytest.approx((math.sqrt(2 / 3) + math.sqrt(2 / 9) + 0) / 3)


def test_the_sum_counts_only_fully_labelled_samples() -> None:
    targets = np.array([[0, 1], [1, NAN], [2, 3], [1, 1]], dtype=np.float32)
    predictions = np.array([[1.0, 1.0], [9.0, 9.0], [2.0, 2.0], [1.0, 1.0]])
    result = Regression(outputs=("A", "B"), range=(0, 9)).metrics(predictions, targets)
    # Sums 1, 5, 2 predicted as 2, 4, 2.
    assert result["sum_mae"] == pytest.approx(2 / 3)
    assert result["sum_r2"] == pytest.approx(1 - 2 / (26 / 3))
    assert result["sum_pearson"] == pytest.approx(np.corrcoef([2, 4, 2], [1, 5, 2])[0, 1])


def test_one_output_has_no_sum() -> None:
    task = Regression(outputs=("global",), range=(0, 18))
    assert not task.summable
    assert not [name for name in task.metrics(column(1, 2), column(1, 2)) if name.startswith("sum")]


def test_kappa_is_quadratic_and_of_rounded_levels() -> None:
    targets = np.array([[0, 0], [1, 1], [2, 2], [3, NAN]], dtype=np.float32)
    predictions = np.array([[0.4, 1.0], [0.6, 1.0], [2.5, 1.0], [2.6, 0.0]])
    result = Ordinal(outputs=("A", "B"), levels=4).metrics(predictions, targets)
    expected = sk.cohen_kappa_score([0, 1, 2, 3], [0, 1, 3, 3], weights="quadratic")
    assert result["kappa_A"] == pytest.approx(expected)
    assert result["kappa_B"] == pytest.approx(0.0)
    assert result["kappa"] == pytest.approx(expected / 2)


def test_multilabel_metrics_by_hand() -> None:
    targets = np.array([[0, 1, NAN], [0, 1, NAN], [1, 1, NAN], [1, NAN, NAN]])
    predictions = np.array([[0.1, 0.9, 0.5], [0.6, 0.5, 0.5], [0.5, 0.2, 0.5], [0.9, 0.0, 0.5]])
    result = FINDINGS.metrics(predictions, targets)
    assert result["auroc"] == result["auroc_edema"] == 3 / 4
    assert math.isnan(result["auroc_left"])
    assert math.isnan(result["auroc_right"])
    assert result["balanced_accuracy"] == pytest.approx((1 / 2 + 1) / 2)
    assert result["f1"] == pytest.approx((2 * 2 / (2 * 2 + 1) + 2 * 2 / (2 * 2 + 1)) / 2)
    edema = (0.01 + 0.36 + 0.25 + 0.01) / 4
    assert result["brier"] == pytest.approx((edema + (0.01 + 0.25 + 0.64) / 3) / 2)


@by_kind
def test_the_fast_primary_metric_equals_the_full_one(task: Task) -> None:
    generator = np.random.default_rng(2)
    targets = some_targets(task, 24)
    targets[1, 0] = NAN
    predictions = task.decode(generator.normal(size=(24, task.n_outputs)))
    full = task.metrics(predictions, targets)
    assert task.metric(task.primary, predictions, targets) == pytest.approx(full[task.primary])
    other = next(name for name in full if name != task.primary and not math.isnan(full[name]))
    assert task.metric(other, predictions, targets) == full[other]


def test_two_label_spaces_that_differ_say_how() -> None:
    other = Classification(classes=("MILD", "SEVERE", "DEAD"))
    assert OUTCOME.disagreement(other) == (
        "classes is [MILD, SEVERE, DEAD] where [MILD, SEVERE] is expected"
    )
    assert "kind is ordinal" in str(ZONES.disagreement(LEVELS))
    assert ZONES.disagreement(Regression(outputs=("A", "B", "D"), range=(0, 3))) is None
