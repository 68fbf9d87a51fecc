"""FedRep, FedBABU and Ditto at a site whose model has two numbers: o = h·w·x.

The one image has x = 1 and the label 0, so ℓ = (h·w)². From w = 2 and h = 1 the gradients are
∂ℓ/∂w = 2·h²·w = 4 and ∂ℓ/∂h = 2·h·w² = 8. A step of plain SGD has the rate 1/16.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy import float32
from pydantic import ValidationError
from torch import nn

from mdmt.algorithms import Ditto, FedAvg, FedBABU, FedRep
from mdmt.data.cohort import Cohort
from mdmt.data.manifest import Manifest
from mdmt.models import MDMTModel
from mdmt.site_round import SiteRound
from mdmt.training import train

W, H = "backbone.w", "heads.t.weight"
SGD = {"name": "sgd", "lr": 1 / 16, "momentum": 0}


class Brightness(nn.Module):
    """w times the mean of an image."""

    def __init__(self):
        super().__init__()
        self.w = nn.Parameter(torch.ones(1))

    def forward(self, images):
        return self.w * images.mean(dim=(1, 2, 3)).unsqueeze(1)


@pytest.fixture
def play(make_config):
    """A function: algorithm, received w, memory → the update of one round of one step."""

    def run(algorithm, w=2.0, memory=None, optimizer=SGD):
        config = make_config(
            tasks={"t": {"kind": "regression", "outputs": ["A"], "range": [-1, 1]}},
            training={"rounds": 3, "local_steps": 1, "optimizer": optimizer},
            augmentation={"p": 0},
        )
        facts = Manifest(
            images=(Path("x.png"),),
            rows=("labels.csv:2",),
            patients=np.array(["p"]),
            splits=np.array(["train"]),
            targets={"t": np.zeros((1, 1), float32)},
            masks=(None,),
        )
        data = Cohort(facts, np.full((1, 16, 16), 255, np.uint8))
        device = torch.device("cpu")
        options = {"config": config, "coefficients": {"t": 1.0}, "seed": 0, "device": device}
        site = SiteRound(
            model=MDMTModel(Brightness(), {"t": nn.Linear(1, 1, bias=False)}),
            aggregation=config.aggregation,
            incoming={W: float32([w])},
            memory=memory or {},
            initial={H: torch.ones(1, 1)},
            uploaded=(W,),
            loop=partial(train, cohort=data, **options),
        )
        algorithm.load(site)
        return algorithm.train(site)

    return run


def numbers(update, *names):
    return [update.memory[name].item() for name in names]


def test_fedavg_trains_both_at_once(play):
    update = play(FedAvg())
    assert update.arrays[W].item() == 2 - 4 / 16
    assert numbers(update, H) == [1 - 8 / 16]


def test_fedrep_trains_the_head_first_and_then_the_backbone_for_the_new_head(play):
    update = play(FedRep(head_steps=1))
    assert numbers(update, H) == [0.5]  # 1 - 8/16
    assert update.arrays[W].item() == 2 - 1 / 16  # ∂ℓ/∂w = 2·.5²·2 = 1
    assert (update.result.steps, update.result.images) == (2, 2)
    # A second step of the head: 2·.5·4 = 4, so h = .25; then ∂ℓ/∂w = 2·.25²·2 = 1/4
    update = play(FedRep(head_steps=2))
    assert numbers(update, H) == [0.25]
    assert update.arrays[W].item() == 2 - 1 / 64


def test_fedbabu_keeps_the_initial_head(play):
    update = play(FedBABU())
    assert update.arrays[W].item() == 2 - 4 / 16
    assert numbers(update, H) == [1.0]
    # The next round: h = 1 still, ∂ℓ/∂w = 2·3 = 6
    assert play(FedBABU(), 3.0, update.memory).arrays[W].item() == 3 - 6 / 16


def test_ditto_averages_one_model_and_keeps_the_other(play):
    first = play(Ditto(mu=1))
    assert first.arrays[W].item() == 1.75
    assert numbers(first, W, H, f"averaged.{H}") == [1.75, 0.5, 0.5]  # θ and v started equal
    second = play(Ditto(mu=1), 3.0, first.memory)
    # θ from 3 with h = .5: ∂ℓ/∂w = 2·.25·3 = 1.5, ∂ℓ/∂h = 2·.5·9 = 9
    assert second.arrays[W].item() == 3 - 1.5 / 16
    assert numbers(second, f"averaged.{H}") == [0.5 - 9 / 16]
    # v from 1.75 with h = .5: 2·.25·1.75 + 1·(1.75 - 3) = -.375, and ∂ℓ/∂h = 2·.5·1.75² = 3.0625
    assert numbers(second, W, H) == [1.75 + 0.375 / 16, 0.5 - 3.0625 / 16]
    assert second.result.steps == 2


def test_moments_of_heads_are_kept_and_moments_of_the_averaged_backbone_are_not(play):
    momentum = SGD | {"momentum": 0.5}
    kept = {
        FedRep(head_steps=1): {f"moments.{H}"},
        FedBABU(): set(),
        Ditto(): {f"moments.{H}", f"averaged.moments.{H}"},
    }
    for algorithm, expected in kept.items():
        memory = play(algorithm, optimizer=momentum).memory
        assert {n for n in memory if "moments." in n} == {f"{n}.momentum_buffer" for n in expected}
    # The head of FedRep goes on: v = .5·8 + 2·.5·4 = 8, h = .5 - 8/16
    first = play(FedRep(head_steps=1), optimizer=momentum)
    assert numbers(play(FedRep(head_steps=1), 2.0, first.memory, momentum), H) == [0.0]


@pytest.mark.parametrize("name", ["fedrep", "fedbabu", "ditto"])
def test_what_does_not_go_with_heads_of_a_site_is_refused(make_config, name):
    for changes, key in (
        ({"aggregation": {"heads": "shared"}}, "aggregation.heads must be local"),
        (
            {
                "aggregation": {"weighting": "uniform", "norm_layers": "frozen"},
                "privacy": {"dp": {"noise_multiplier": 1, "sample_rate": 0.5}},
            },
            "privacy.dp cannot be used",
        ),
    ):
        with pytest.raises(ValidationError, match=f"with algorithm {name} {key}"):
            make_config(algorithm=name, **changes)


def test_fedbabu_needs_refitted_heads_and_heads_have_one_time_to_train(make_config):
    training = {"rounds": 2, "refit_heads": True, "warmup_rounds": 1}
    with pytest.raises(ValidationError, match=r"algorithm fedbabu training\.refit_heads must"):
        make_config(algorithm="fedbabu")
    for name in ("fedbabu", "fedrep"):
        with pytest.raises(ValidationError, match=f"algorithm {name} training.warmup_rounds must"):
            make_config(algorithm=name, training=training)
        make_config(algorithm=name, training=training | {"warmup_rounds": 0})


def test_a_site_counts_all_steps_of_a_round():
    assert FedRep(head_steps=7).round_steps(5) == 12
    assert Ditto().round_steps(5) == 10
    assert FedBABU().round_steps(5) == FedAvg().round_steps(5) == 5
