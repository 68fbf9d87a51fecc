"""Linear heads on frozen features: what cross-validation by patient chooses, and calibration."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from mdmt.linear_heads import LinearHead, fit_linear_head
from mdmt.tasks import Classification, Multilabel, Regression

OUTCOME = Classification(kind="classification", classes=("MILD", "SEVERE"))
SCORE = Regression(kind="regression", outputs=("score",), range=(0, 3))


def patients(n: int, images: int = 1) -> Any:
    return np.array([f"p{number // images}" for number in range(n)])


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def probability(head: LinearHead, features: Tensor) -> Tensor:
    return torch.softmax(head(features), dim=1)[:, 1]


def test_an_exact_line_is_found() -> None:
    """The score 1.5 + 0.3·z is the output 0 + 0.2·z, as half of the range is 1.5.

    There is no noise: the weakest λ wins, and calibration removes its shrinkage.
    """
    z = normal(60, 1)
    head = fit_linear_head(SCORE, z, 1.5 + 0.3 * z, patients(60), seed=0)
    assert head.weight.item() == pytest.approx(0.2, abs=1e-3)
    assert head.bias.item() == pytest.approx(0, abs=1e-3)


def test_noise_gives_the_prevalence() -> None:
    """Features without information: every patient gets the frequency of the class, 30 of 100."""
    y = torch.tensor([1.0] * 30 + [0.0] * 70)[:, None]
    head = fit_linear_head(OUTCOME, normal(100, 40), y, patients(100), seed=0)
    assert probability(head, normal(50, 40, seed=1)).numpy() == pytest.approx(0.3, abs=0.06)


def test_balanced_weights_move_the_threshold() -> None:
    y = torch.tensor([1.0] * 30 + [0.0] * 70)[:, None]
    weights = torch.from_numpy(OUTCOME.balanced_weights(y.numpy()))
    head = fit_linear_head(
        OUTCOME, normal(100, 40), y, patients(100), seed=0, class_weights=weights
    )
    assert probability(head, normal(50, 40, seed=1)).numpy() == pytest.approx(0.5, abs=0.06)


def test_images_of_a_patient_are_held_out_together() -> None:
    """A label that only names the patient cannot be predicted for another patient.

    Each patient has four equal images and a random label. A split by image would find features that
    recognise the patient and would trust them.
    """
    z = normal(30, 200).repeat_interleave(4, dim=0)
    y = (normal(30, seed=2) > 0).float().repeat_interleave(4)[:, None]
    by_patient = fit_linear_head(OUTCOME, z, y, patients(120, images=4), seed=0)
    by_image = fit_linear_head(OUTCOME, z, y, patients(120), seed=0)
    new = normal(200, 200, seed=3)
    assert probability(by_patient, new).std() < 0.1 < probability(by_image, new).std()


def test_more_features_than_images_give_the_same_head() -> None:
    """Features that are always 0 change the way of solving (a rotation), but not the outputs."""
    z, new = normal(40, 5), normal(10, 5, seed=1)
    y = (z[:, :1] + normal(40, 1, seed=2) > 0).float()
    few = fit_linear_head(OUTCOME, z, y, patients(40), seed=0)
    padded = fit_linear_head(
        OUTCOME, torch.cat([z, torch.zeros(40, 95)], 1), y, patients(40), seed=0
    )
    outputs = padded(torch.cat([new, torch.zeros(10, 95)], 1))
    assert outputs.numpy() == pytest.approx(few(new).numpy(), abs=1e-3)


def test_images_without_a_label_change_nothing() -> None:
    z, y = normal(40, 5), (normal(40, 1, seed=1) > 0).float()
    y[::4] = torch.nan
    labelled = torch.isfinite(y[:, 0])
    one = fit_linear_head(OUTCOME, z, y, patients(40), seed=0)
    other = fit_linear_head(OUTCOME, z[labelled], y[labelled], patients(40)[labelled], seed=0)
    assert torch.equal(one.weight, other.weight)
    with pytest.raises(ValueError, match="no image has a label"):
        fit_linear_head(OUTCOME, z, torch.full((40, 1), torch.nan), patients(40), seed=0)


def test_a_missing_finding_is_masked() -> None:
    """The labels of one finding do not depend on the images that lack the other."""
    task = Multilabel(kind="multilabel", labels=("opacity", "effusion"))
    z = normal(80, 3)
    y = (z[:, :2] > 0).float()
    y[40:, 1] = torch.nan
    head = fit_linear_head(task, z, y, patients(80), seed=0)
    new = normal(100, 3, seed=1)
    assert ((head(new) > 0) == (new[:, :2] > 0)).float().mean() > 0.9


@pytest.mark.parametrize("number", [1, 2, 3])
def test_few_patients(number: int) -> None:
    z, y = normal(number, 4), torch.arange(number).remainder(2).float()[:, None]
    head = fit_linear_head(OUTCOME, z, y, patients(number), seed=0)
    assert torch.isfinite(head(z)).all()


def test_equal_bits() -> None:
    z, y = normal(50, 20), (normal(50, 1, seed=1) > 0).float()
    one, other = (fit_linear_head(OUTCOME, z, y, patients(50), seed=7) for _ in range(2))
    assert torch.equal(one.weight, other.weight)
    assert torch.equal(one.bias, other.bias)


def test_a_feature_that_hardly_varies_is_not_blown_up() -> None:
    """It is 0 in all training images but one. Another patient has the value 1: nothing explodes."""
    z = torch.cat([normal(60, 5), torch.zeros(60, 1)], dim=1)
    z[0, 5] = 0.01
    y = 1.5 + 0.3 * z[:, :1] + 0.1 * normal(60, 1, seed=1)
    head = fit_linear_head(SCORE, z, y, patients(60), seed=0)
    assert abs(head.weight[0, 5]) < 0.05
