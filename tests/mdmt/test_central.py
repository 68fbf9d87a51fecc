"""Training in one place: the objective of several tasks, and a continuation to the bit."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from builders import PROGNOSIS, SEVERITY

from mdmt.central import central_rounds, pooled_objective
from mdmt.checkpoints import RoundFiles
from mdmt.data.cohort import open_cohort
from mdmt.evaluation import evaluate
from mdmt.models import build_model

CPU = torch.device("cpu")


def three_tasks(optimizer):
    return {
        "tasks": {
            "prognosis": PROGNOSIS | {"weight": 1.0},
            "severity": SEVERITY | {"weight": 3.0},
            "view": {"kind": "classification", "classes": ["AP", "PA"], "weight": 4.0},
        },
        "training": {"rounds": 2, "optimizer": optimizer},
    }


def test_lambda_sums_over_the_tasks_that_are_trained(make_config):
    """A site with two of three tasks: Λ = 1 + 3, not 8."""
    config = make_config(**three_tasks("sgd"))
    coefficients, rates = pooled_objective(config, ["prognosis", "severity"])
    assert coefficients == {"prognosis": 1.0, "severity": 3.0}
    assert rates == {"backbone": 1 / 4, "heads.prognosis": 1.0, "heads.severity": 1 / 3}
    adam = make_config(**three_tasks("adam"))
    assert pooled_objective(adam, ["prognosis", "severity"]) == (
        {"prognosis": 0.25, "severity": 0.75},
        {},
    )
    assert pooled_objective(config, ["view"]) == ({"view": 1.0}, {})


@pytest.mark.parametrize("scheduler", ["cosine", "plateau"])
def test_training_continues_from_a_saved_round_to_the_bit(
    make_config, two_sites, tmp_path, scheduler
):
    training = {"rounds": 4, "local_steps": 1, "batch_size": 4, "optimizer": "adam"}
    config = make_config(sites=two_sites, training=training | {"scheduler": scheduler})
    cohorts = {"clinic": open_cohort(config.sites["clinic"], config)}
    options = {"who": "clinic", "rounds": 4, "device": CPU}
    files = RoundFiles(tmp_path / "rounds", {})

    def model():
        return build_model(config, ["severity"], weights=False)

    whole, again = model(), model()
    for done in central_rounds(config, cohorts, ["severity"], whole, **options):
        if done.number == 2:
            files.save(2, done.tensors(), done.selection.save())
    rounds = [
        done.number
        for done in central_rounds(
            config, cohorts, ["severity"], again, **options, saved=files.load(2)
        )
    ]
    assert rounds == [3, 4]
    for name, value in whole.state_dict().items():
        assert torch.equal(value, again.state_dict()[name]), name


def test_evaluation_has_a_batch_size_of_its_own(make_config, two_sites, monkeypatch):
    """Small training batches do not make an evaluation slow: 12 images are one batch."""
    training = {"rounds": 1, "batch_size": 2}
    config = make_config(sites=two_sites, training=training)
    cohort, sizes = open_cohort(config.sites["clinic"], config), []
    model = build_model(config, ["severity"], weights=False)
    forward = model.forward

    def count(images, tasks):
        sizes.append(len(images))
        return forward(images, tasks)

    monkeypatch.setattr(model, "forward", count)
    evaluate(model, cohort, "train", config, ["severity"], CPU)
    assert sizes == [len(cohort.manifest.indices("train"))]
    small = make_config(sites=two_sites, training=training | {"evaluation_batch_size": 3})
    sizes.clear()
    evaluate(model, cohort, "train", small, ["severity"], CPU)
    assert max(sizes) == 3
    assert np.sum(sizes) == len(cohort.manifest.indices("train"))
