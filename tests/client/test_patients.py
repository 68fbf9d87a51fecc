"""Too few patients behind a round, a loss or a metric: then nothing about them is sent."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from deployed_site import refusal, report, update

import mdmt.training
from client.patients import check_patients
from client.privacy_filter import reported_metrics
from mdmt.config import Policy
from mdmt.data.cohort import Cohort
from mdmt.data.manifest import Manifest
from mdmt.errors import PolicyError
from mdmt.training import round_batches

NAN = float("nan")
ONE_SEVERITY = [[1.0] * 6] + [[NAN] * 6] * 4


def cohort(patients: str, **targets: list[list[float]]) -> Cohort:
    """A training image per letter, which names its patient."""
    n = len(patients)
    manifest = Manifest(
        images=(Path("x.png"),) * n,
        rows=("labels.csv:2",) * n,
        patients=np.array(list(patients)),
        splits=np.array(["train"] * n),
        targets={task: np.array(rows, np.float32) for task, rows in targets.items()},
        masks=(None,) * n,
    )
    return Cohort(manifest, np.zeros((n, 4, 4), np.uint8))


def check(make_config, minimum, data, tasks=("prognosis",), seed=0, **training):
    config = make_config(training={"rounds": 1} | training)
    policy = Policy(min_patients_per_update=minimum)
    coefficients = tasks if isinstance(tasks, dict) else dict.fromkeys(tasks, 1.0)
    return check_patients(policy, config, data, coefficients, seed)


def test_patients_are_counted_and_not_images(make_config):
    """Two steps of two images see four images, of at most three patients."""
    data = cohort("aaaabc", prognosis=[[0.0]] * 6)
    steps = {"local_steps": 3, "batch_size": 2}
    assert check(make_config, 3, data, **steps) == frozenset()
    with pytest.raises(PolicyError) as error:
        check(make_config, 4, data, **steps)
    assert str(error.value) == (
        "policy: min_patients_per_update asks for 4 patients in the batches of a round, this round"
        " has fewer with a label of prognosis"
    )


def test_only_the_batches_of_the_round_count(make_config):
    """The split has 20 patients; one step of one image has one."""
    data = cohort("abcdefghijklmnopqrst", prognosis=[[0.0]] * 20)
    one = {"local_steps": 1, "batch_size": 1}
    assert check(make_config, 1, data, **one) == frozenset()
    with pytest.raises(PolicyError, match="this round has fewer"):
        check(make_config, 2, data, **one)


def test_the_batches_are_those_of_the_training(ward, monkeypatch):
    """The images that training loads are those that were counted before, in this order."""
    loaded, counted = [], []
    load, batches = mdmt.training.load_images, mdmt.training.round_batches

    def spy(cohort, indices, device):
        loaded.append(indices.tolist())
        return load(cohort, indices, device)

    def listed(*arguments):
        found = list(batches(*arguments))
        counted.extend(batch.tolist() for batch in found)
        return iter(found)

    monkeypatch.setattr("mdmt.training.load_images", spy)
    monkeypatch.setattr("client.patients.round_batches", listed)
    training = {"rounds": 2, "local_epochs": 2, "batch_size": 4}
    update(ward({"min_patients_per_update": 2}, training=training).train())
    assert len(loaded) == 6
    assert loaded == counted


def test_the_loss_of_a_task_with_few_patients_is_withheld(make_config):
    """All five patients are in the batch; only one has a severity, which is not trained."""
    data = cohort("abcde", prognosis=[[0.0]] * 5, severity=ONE_SEVERITY)
    tasks = {"prognosis": 1.0, "severity": 0.0}
    found = check(make_config, 2, data, tasks, local_epochs=1, batch_size=8)
    assert found == {"severity"}
    assert check(make_config, 1, data, tasks, local_epochs=1, batch_size=8) == frozenset()


@pytest.mark.parametrize("prognosis", [0.0, 1e-9, 1.0])
def test_a_coefficient_cannot_leave_a_task_of_few_patients_alone(make_config, prognosis):
    data = cohort("abcde", prognosis=[[0.0]] * 5, severity=ONE_SEVERITY)
    tasks = {"prognosis": prognosis, "severity": 1.0}
    with pytest.raises(PolicyError, match="this round has fewer with a label of severity"):
        check(make_config, 2, data, tasks, local_epochs=1, batch_size=8)


def test_a_round_that_trains_nothing_has_no_patients(make_config):
    data = cohort("abcde", prognosis=[[0.0]] * 5)
    with pytest.raises(PolicyError, match="this round has fewer"):
        check(make_config, 2, data, {"prognosis": 0.0}, local_epochs=1, batch_size=8)


def test_a_task_of_few_patients_does_not_count_for_ever(make_config):
    data = cohort("abcde", prognosis=[[0.0]] * 5)
    with pytest.raises(PolicyError, match="this round has fewer"):
        check(make_config, 6, data, local_steps=10**12, batch_size=2)


def test_without_a_minimum_nothing_is_counted(make_config, monkeypatch):
    monkeypatch.setattr("client.patients.round_batches", lambda *_: pytest.fail("counted"))
    assert check(make_config, 0, cohort("a", prognosis=[[0.0]])) == frozenset()


def test_a_long_round_is_counted_only_until_there_are_enough(make_config):
    data = cohort("abcdef", prognosis=[[0.0]] * 6)
    assert check(make_config, 6, data, local_steps=10**12, batch_size=6) == frozenset()


def test_a_site_sends_nothing_about_a_round_with_few_patients(ward):
    """Of 20 patients, a round with two steps of two images has at most four."""
    few = {"rounds": 2, "local_steps": 2, "batch_size": 2}
    site = ward({"min_patients_per_update": 5}, training=few)
    why = "policy: min_patients_per_update asks for 5 patients in the batches of a round"
    assert refusal(site.query()).startswith(f"site ward: {why}"), "before the first round"
    assert refusal(site.train()).startswith(why)
    assert refusal(site.reference()).startswith(why)
    assert not list((site.folder / "state").rglob("*.safetensors")), "no training"
    site.allow(min_patients_per_update=3)
    update(site.train())


def test_metrics_of_few_patients_are_withheld(ward):
    """The splits of 20 patients have 10 for training, 4 for validation and 6 for the test."""
    site = ward({"min_patients_per_update": 5})
    trained = report(site.train())
    assert set(trained["validation"].values()) == {None}
    assert trained["losses"]["prognosis"] is not None
    tested = report(site.evaluate(0))["metrics"]
    assert set(tested["val"].values()) == {None}
    assert tested["test"]["prognosis/auroc"] is not None


def test_many_images_of_few_patients_are_few():
    data = cohort("aaabbb", prognosis=[[0.0], [1.0]] * 3)
    metrics = {"prognosis/auroc": 0.5, "prognosis/examples": 6}
    for minimum, sent in ((2, metrics), (3, dict.fromkeys(metrics))):
        policy = Policy(min_patients_per_update=minimum)
        assert reported_metrics(policy, data.manifest, metrics, "train") == sent


def test_round_batches_of_one_seed_are_equal_and_of_another_differ(make_config):
    data = cohort("abcdefghij", prognosis=[[0.0]] * 10)
    config = make_config(training={"rounds": 1, "local_epochs": 1, "batch_size": 3})
    first, same, other = (
        [batch.tolist() for batch in round_batches(data, config, ["prognosis"], seed)]
        for seed in (0, 0, 1)
    )
    assert [len(batch) for batch in first] == [3, 3, 4], "a last batch of one image joins"
    assert first == same != other
