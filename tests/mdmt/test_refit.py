"""Refitted heads: what changes in a model, what is released, and when a trained head is kept."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from mdmt import refit
from mdmt.data.cohort import open_cohort
from mdmt.models import build_model
from mdmt.refit import evaluate_refitted, linear_probe, refit_heads

CPU = torch.device("cpu")


@pytest.fixture
def bench(make_config, two_sites):
    two_sites["hospital"]["dataset"] |= {"patients": 60, "val_fraction": 0.3, "test_fraction": 0.3}
    config = make_config(sites=two_sites)
    model = build_model(config, ["prognosis"], weights=False)
    return model, open_cohort(config.sites["hospital"], config), config, ["prognosis"], CPU


def state(model):
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def test_only_the_last_layer_changes_and_in_a_copy(bench):
    model = bench[0]
    before = state(model)
    refitted = refit_heads(*bench, choose=False)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    changed = {n for n, v in refitted.final.state_dict().items() if not torch.equal(before[n], v)}
    assert changed == {"heads.prognosis.0.weight", "heads.prognosis.0.bias"}
    assert refitted.tasks == {"prognosis"}


def test_validation_does_not_see_its_own_labels(bench):
    """The early head, which is validated, is the same whatever the validation labels are."""
    model, cohort, *rest = bench
    one = refit_heads(model, cohort, *rest, choose=False)
    targets = cohort.manifest.targets["prognosis"]
    held = cohort.manifest.indices("val")
    targets[held] = 1 - targets[held]
    other = refit_heads(model, cohort, *rest, choose=False)
    assert all(map(torch.equal, one.early.parameters(), other.early.parameters()))
    assert not all(map(torch.equal, one.final.parameters(), other.final.parameters()))


def test_no_head_sees_the_test_labels(bench):
    model, cohort, *rest = bench
    one = refit_heads(model, cohort, *rest)
    cohort.manifest.targets["prognosis"][cohort.manifest.indices("test")] = 0
    other = refit_heads(model, cohort, *rest)
    assert all(map(torch.equal, one.final.parameters(), other.final.parameters()))


@pytest.mark.parametrize("enough", [True, False])
def test_a_better_trained_head_is_kept_if_validation_can_tell(bench, monkeypatch, enough):
    """The trained head is fitted to the validation labels here, so validation prefers it."""
    model, cohort, *rest = bench
    held = cohort.manifest.indices("val")
    cohort.manifest.targets["prognosis"][held, 0] = np.arange(len(held)) % 2
    swapped = cohort.manifest.splits.copy()
    swapped[cohort.manifest.splits == "train"], swapped[held] = "val", "train"
    honest = cohort.manifest.splits.copy()
    cohort.manifest.splits[:] = swapped
    trained = refit_heads(model, cohort, *rest, choose=False).early
    cohort.manifest.splits[:] = honest
    monkeypatch.setattr(refit, "enough_to_choose", lambda patients, counts: enough)
    result = refit_heads(trained, cohort, *rest)
    assert result.tasks == (frozenset() if enough else {"prognosis"})
    assert enough == all(map(torch.equal, result.final.parameters(), trained.parameters()))
    metrics = evaluate_refitted(result, cohort, *rest).metrics
    assert metrics["test"]["prognosis/refitted"] == int(not enough)


def test_a_probe_has_linear_heads(make_config, two_sites):
    tasks = {"prognosis": {"kind": "classification", "classes": ["A", "B"], "head": "mlp"}}
    config = make_config(tasks=tasks)
    model = build_model(config, ["prognosis"], weights=False)
    probe = linear_probe(model, config, ["prognosis"])
    assert [type(layer).__name__ for layer in probe.heads["prognosis"]] == ["Linear"]
    assert probe.backbone is model.backbone


def test_a_shared_head_is_refused(make_config):
    with pytest.raises(ValueError, match="a shared head is the same at all sites"):
        make_config(training={"rounds": 1, "refit_heads": True}, aggregation={"heads": "shared"})
