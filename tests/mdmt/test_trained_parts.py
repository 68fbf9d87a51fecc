"""Which numbers a round changes: `model.trainable`, warm-up rounds, the rate of the backbone."""

from __future__ import annotations

import pytest
import torch
from test_training import CPU, cohort

from mdmt.config import FederationConfig
from mdmt.models import MDMTModel, build_model
from mdmt.models.norms import norm_tensors
from mdmt.training import TrainingResult, train

PLAIN = {"name": "sgd", "lr": 0.01, "momentum": 0}
State = dict[str, torch.Tensor]


@pytest.fixture
def setup(make_config):
    """(config, model) for options of the model and the training; equal models on every call."""

    def build(trainable="all", norm_layers="average", **training):
        options = {"rounds": 4, "local_steps": 2, "batch_size": 4, "optimizer": PLAIN} | training
        config = make_config(
            model={"backbone": "test_resnet", "image_size": 32, "trainable": trainable},
            training=options,
            augmentation={"p": 0},
            aggregation={"norm_layers": norm_layers},
        )
        return config, build_model(config, ("severity",), weights=False)

    return build


def run(
    config: FederationConfig, model: MDMTModel, **options: object
) -> tuple[TrainingResult, State]:
    """Train for a round. Return how much each tensor changed too."""
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    result = train(
        model, cohort(), config, coefficients={"severity": 1.0}, seed=1, device=CPU, **options
    )
    after = model.state_dict()
    return result, {name: after[name] - value for name, value in before.items()}


def changed(difference: State) -> set[str]:
    return {name for name, value in difference.items() if value.any()}


@pytest.mark.parametrize(
    ("trainable", "norm_layers", "parts"),
    [
        ({"last_blocks": 2}, "average", ("backbone.layer3.", "backbone.layer4.")),
        ({"last_blocks": 1}, "frozen", ("backbone.layer4.",)),
        ("none", "average", ()),
    ],
)
def test_a_round_changes_what_is_trainable_and_nothing_else(setup, trainable, norm_layers, parts):
    config, model = setup(trainable, norm_layers, optimizer={"name": "adam", "weight_decay": 0.1})
    _, difference = run(config, model)
    expected = {n for n in difference if n.startswith(("heads.", *parts))}
    if norm_layers == "frozen":
        expected -= norm_tensors(model)
    assert changed(difference) == expected
    for name, parameter in model.named_parameters():
        assert (parameter.grad is not None) == (name in expected)


def test_norms_train_with_their_statistics(setup):
    config, model = setup("norms")
    _, difference = run(config, model)
    norms = {name for name in difference if name in norm_tensors(model)}
    assert changed(difference) == norms | {n for n in difference if n.startswith("heads.")}
    assert any(name.endswith("running_var") for name in norms)


def test_only_the_heads_train_in_a_warm_up_round_as_with_a_frozen_backbone(setup):
    config, model = setup(warmup_rounds=2)
    differences = [run(config, model, round_number=number)[1] for number in (1, 2, 3)]
    heads = {name for name in differences[0] if name.startswith("heads.")}
    assert changed(differences[0]) == changed(differences[1]) == heads
    assert changed(differences[2]) == differences[2].keys()

    frozen, other = setup("none")
    expected = run(frozen, other, round_number=1)[1]
    assert all(torch.equal(differences[0][name], expected[name]) for name in heads)


def test_moments_of_the_heads_outlive_the_warm_up(setup):
    """The backbone has no moments yet in its first round."""
    config, model = setup(warmup_rounds=1, optimizer="adam")
    names = [name for name, _ in model.named_parameters()]
    first, _ = run(config, model, round_number=1, keep_moments=names)
    assert {name.partition(".")[0] for name in first.moments} == {"heads"}
    second, _ = run(config, model, round_number=2, keep_moments=names, start_moments=first.moments)
    steps = {name: int(value) for name, value in second.moments.items() if name.endswith(".step")}
    assert {steps[name] for name in steps if name.startswith("heads.")} == {4}
    assert {steps[name] for name in steps if name.startswith("backbone.")} == {2}


def test_the_rate_of_the_backbone_has_its_own_factor(setup):
    """One step of plain SGD changes the backbone by the factor, and the heads as before."""
    options = {"local_steps": 1, "norm_layers": "frozen"}
    whole, small = (run(*setup(backbone_lr_mult=factor, **options))[1] for factor in (1.0, 0.125))
    for name in [n for n, value in whole.items() if value.is_floating_point()]:
        factor = 0.125 if name.startswith("backbone.") else 1.0
        torch.testing.assert_close(small[name], factor * whole[name], rtol=1e-3, atol=1e-7)
    assert whole["backbone.conv1.0.weight"].abs().max() > 1e-4


@pytest.mark.parametrize("part", ["heads", "backbone"])
def test_a_phase_of_a_round_trains_one_part(setup, part):
    config, model = setup()
    _, difference = run(config, model, part=part)
    assert changed(difference) == {n for n in difference if n.startswith(part)}
