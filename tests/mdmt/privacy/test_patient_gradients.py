"""The sum of clipped gradients of patients."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from mdmt.models import MDMTModel, build_model
from mdmt.privacy.patient_gradients import PatientGradients
from mdmt.tasks import Classification, Regression

SCORE = Regression(outputs=("a",), range=(-1, 1))  # loss (o - y)²
PAIR = Regression(outputs=("a", "b"), range=(-1, 1))


def linear(outputs=1):
    """o = w·x + b on an image of two pixels, with w = b = 0."""
    head = nn.Linear(2, outputs)
    nn.init.zeros_(head.weight)
    nn.init.zeros_(head.bias)
    return MDMTModel(nn.Flatten(), {"score": head})


def images(*pixels):
    return torch.tensor(pixels).view(-1, 1, 1, 2)


def summed(model, space, x, y, sizes, *, clip=1e9, c=1.0, at_once=32):
    gradients = PatientGradients(model, {"score": space}, {"score": c}, clip=clip, images=at_once)
    total = gradients.clipped_sum(x, {"score": torch.tensor(y)}, np.array(sizes, dtype=int))
    return total["heads.score.weight"].tolist(), total["heads.score.bias"].tolist()


def test_gradients_by_hand():
    """de/dw = 2(o - y)x: patient 1 has y = 1, x = (3, 4); patient 2 has y = -.5, x = (1, 0)."""
    weight, bias = summed(linear(), SCORE, images([3.0, 4.0], [1.0, 0.0]), [[1.0], [-0.5]], [1, 1])
    assert weight == [[-6 + 1, -8 + 0]]
    assert bias == [-2 + 1]


def test_clipping_by_hand():
    """‖g_1‖² = 36 + 64 + 4 = 104 is clipped to 1; ‖g_2‖² = 1 + 1 = 2 to 1 as well."""
    x, y = images([3.0, 4.0], [1.0, 0.0]), [[1.0], [-0.5]]
    weight, bias = summed(linear(), SCORE, x, y, [1, 1], clip=1.0)
    one, two = 1 / math.sqrt(104), 1 / math.sqrt(2)
    assert weight[0] == pytest.approx([-6 * one + two, -8 * one], rel=1e-6)
    assert bias == pytest.approx([-2 * one + two], rel=1e-6)
    # Only the first is clipped to 5.
    weight, _ = summed(linear(), SCORE, x, y, [1, 1], clip=5.0)
    assert weight[0] == pytest.approx([-6 * 5 * one + 1, -8 * 5 * one], rel=1e-6)


def test_all_images_of_a_patient_are_one_record():
    """The gradients (-6, -8, -2) and (1, 0, 1) of one patient are added, then clipped."""
    x, y = images([3.0, 4.0], [1.0, 0.0]), [[1.0], [-0.5]]
    weight, bias = summed(linear(), SCORE, x, y, [2], clip=1.0)
    norm = math.sqrt(25 + 64 + 1)
    assert weight[0] == pytest.approx([-5 / norm, -8 / norm], rel=1e-6)
    assert bias == pytest.approx([-1 / norm], rel=1e-6)


def test_the_loss_is_divided_by_the_outputs_not_by_the_labels():
    """K = 2. One of two labels is missing: the other counts 1/2, as if both were there."""
    x = images([3.0, 4.0])
    weight, bias = summed(linear(2), PAIR, x, [[1.0, math.nan]], [1], c=0.5)
    assert weight == [[-1.5, -2.0], [0.0, 0.0]]
    assert bias == [-0.5, 0.0]
    weight, _ = summed(linear(2), PAIR, x, [[1.0, 1.0]], [1], c=0.5)
    assert weight == [[-1.5, -2.0], [-1.5, -2.0]]


def test_nobody_gives_zero():
    weight, bias = summed(linear(), SCORE, torch.empty(0, 1, 1, 2), np.empty((0, 1)), [])
    assert weight == [[0, 0]]
    assert bias == [0]


def test_a_gradient_that_is_not_finite_adds_nothing():
    x, y = images([1e30, 1e30], [1.0, 0.0]), [[1e30], [-0.5]]
    weight, bias = summed(linear(), SCORE, x, y, [1, 1])
    assert weight == [[1.0, 0.0]]
    assert bias == [1.0]


def test_backbone_and_heads_share_one_norm_and_other_heads_stay(make_config):
    model = build_model(make_config(), ("prognosis", "severity"), weights=False).eval()
    space = Classification(classes=("MILD", "SEVERE"))
    gradients = PatientGradients(
        model, {"prognosis": space}, {"prognosis": 1.0}, clip=0.1, images=8
    )
    assert {name.split(".")[1] for name in gradients.parameters if "heads" in name} == {"prognosis"}
    x = torch.rand(1, 1, 32, 32)
    total = gradients.clipped_sum(x, {"prognosis": torch.ones(1, 1)}, np.array([1]))
    squares = {name: float((value**2).sum()) for name, value in total.items()}
    assert math.sqrt(sum(squares.values())) == pytest.approx(0.1, rel=1e-6)
    assert 0 < sum(v for n, v in squares.items() if n.startswith("heads")) < 0.1**2


def test_it_equals_autograd_patient_by_patient(make_config):
    """On a convolutional network, with patients of one, two and three images."""
    model = build_model(make_config(), ("prognosis",), weights=False).eval()
    space = Classification(classes=("MILD", "SEVERE"))
    gradients = PatientGradients(
        model, {"prognosis": space}, {"prognosis": 1.0}, clip=1e-2, images=4
    )
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(8, 1, 32, 32, generator=generator)
    y = torch.tensor([0.0, 1, 1, 0, 1, 0, 0, 1]).view(8, 1)
    sizes = np.array([2, 1, 3, 2])
    total = gradients.clipped_sum(x, {"prognosis": y}, sizes)
    parameters = list(gradients.parameters.values())
    expected = [torch.zeros_like(p) for p in parameters]
    for rows in torch.arange(8).split(sizes.tolist()):
        loss = nn.functional.cross_entropy(
            model(x[rows])["prognosis"], y[rows, 0].long(), reduction="sum"
        )
        own = torch.autograd.grad(loss, parameters)
        norm = math.sqrt(sum(float((g**2).sum()) for g in own))
        expected = [e + g * min(1, 1e-2 / norm) for e, g in zip(expected, own, strict=True)]
    for name, value in zip(gradients.parameters, expected, strict=True):
        assert torch.allclose(total[name].float(), value, atol=1e-6), name


def _model():
    torch.manual_seed(0)
    body = nn.Sequential(nn.Flatten(), nn.Linear(4, 3), nn.Tanh())
    return MDMTModel(body, {"score": nn.Linear(3, 2)})


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_one_patient_changes_the_sum_by_at_most_the_clip(data):
    """The sensitivity that the noise is made for."""
    sizes = data.draw(st.lists(st.integers(1, 4), min_size=1, max_size=5))
    clip = data.draw(st.sampled_from([1e-3, 0.5, 10.0]))
    scale = data.draw(st.sampled_from([0.1, 1.0, 1e3]))
    generator = torch.Generator().manual_seed(data.draw(st.integers(0, 2**31)))
    x = scale * torch.randn(sum(sizes), 1, 2, 2, generator=generator)
    y = torch.rand(sum(sizes), 2, generator=generator)
    y[torch.rand(y.shape, generator=generator) < 0.3] = math.nan
    out = data.draw(st.integers(0, len(sizes) - 1))
    start = sum(sizes[:out])
    kept = torch.tensor([not start <= i < start + sizes[out] for i in range(sum(sizes))])
    fewer = sizes[:out] + sizes[out + 1 :]
    model = _model()
    gradients = PatientGradients(model, {"score": PAIR}, {"score": 1.0}, clip=clip, images=3)
    whole = gradients.clipped_sum(x, {"score": y}, np.array(sizes))
    part = gradients.clipped_sum(x[kept], {"score": y[kept]}, np.array(fewer, dtype=int))
    change = math.sqrt(sum(float(((whole[n] - part[n]) ** 2).sum()) for n in whole))
    assert change <= clip * (1 + 1e-4)
