from __future__ import annotations

import pytest
import timm
import torch
from torch import nn

from mdmt.config import HeadConfig, ModelConfig
from mdmt.errors import ConfigError
from mdmt.models import MDMTModel, build_model
from mdmt.models.backbones import build_backbone, feature_width
from mdmt.models.heads import build_head

TINY = [*timm.list_models("test_*"), "shufflenet_v2_x0_5", "googlenet"]


def backbone_of(name: str, channels: int = 1, size: int = 64) -> nn.Module:
    return build_backbone(ModelConfig(backbone=name, in_channels=channels, image_size=size))


@pytest.mark.parametrize("name", TINY)
def test_forward_gives_as_many_pooled_features_as_the_heads_expect(name: str) -> None:
    backbone = backbone_of(name, channels=1 + TINY.index(name) % 3)
    images = torch.rand(2, 1 + TINY.index(name) % 3, 64, 64)
    assert backbone(images).shape == (2, feature_width(backbone))


def test_image_size_reaches_models_whose_tokens_depend_on_it() -> None:
    assert backbone_of("test_vit", size=48)(torch.rand(1, 1, 48, 48)).shape == (1, 64)


# Totals of torchvision's table of models; the classifier is 1024 x 1000 + 1000.
@pytest.mark.parametrize(
    ("name", "published"),
    [
        ("googlenet", 6_624_904),
        ("shufflenet_v2_x0_5", 1_366_792),
        ("shufflenet_v2_x1_0", 2_278_604),
    ],
)
def test_torchvision_backbones_lack_only_the_classifier(name: str, published: int) -> None:
    backbone = backbone_of(name, channels=3)
    assert sum(p.numel() for p in backbone.parameters()) == published - 1_025_000
    assert feature_width(backbone) == 1024


def test_first_convolution_of_torchvision_backbones_follows_the_channels() -> None:
    grey = backbone_of("shufflenet_v2_x0_5", channels=1).get_submodule("conv1.0")
    # kaiming_uniform(a=√5): |w| <= 1/√fan_in with fan_in = 1 x 3 x 3.
    assert grey.weight.shape == (24, 1, 3, 3)
    assert 0.3 < grey.weight.abs().max() <= 1 / 3


@pytest.mark.parametrize(
    ("name", "size", "message"),
    [
        ("test_resnett", 64, "unknown backbone test_resnett; did you mean test_resnet"),
        ("hf-hub:timm/test_resnet", 64, "unknown backbone"),
        ("zzzzzzzzzz", 64, "see timm.list_models"),
        ("test_resnet.nosuchtag", 64, "nosuchtag"),
        ("inception_v3", 32, "cannot be built for 32 x 32 images"),
        ("test_vit", 50, "cannot be built for 50 x 50 images"),
    ],
)
def test_unusable_backbone_is_refused_in_one_line(name: str, size: int, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        backbone_of(name, size=size)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_linear_head_is_one_layer_and_hidden_sizes_make_the_papers_head() -> None:
    assert [type(layer) for layer in build_head(HeadConfig(), 7, 2)] == [nn.Linear]
    paper = build_head(HeadConfig(hidden=(128, 32), dropout=0.5), 7, 2)
    block = [nn.Linear, nn.ReLU, nn.Dropout]
    assert [type(layer) for layer in paper] == [*block, *block, nn.Linear]
    assert [m.weight.shape for m in paper if isinstance(m, nn.Linear)] == [
        (128, 7),
        (32, 128),
        (2, 32),
    ]
    assert {m.p for m in paper if isinstance(m, nn.Dropout)} == {0.5}


def test_dropout_of_a_linear_head_acts_on_its_features() -> None:
    head = build_head(HeadConfig(dropout=0.5), 1000, 1)
    nn.init.ones_(head[-1].weight)
    nn.init.zeros_(head[-1].bias)
    # 1000 ones, each kept with probability 1/2 and doubled: 1000 ± 31.6.
    assert 800 < head(torch.ones(1, 1000)).item() < 1200
    assert head(torch.ones(1, 1000)).item() != head(torch.ones(1, 1000)).item()
    assert head.eval()(torch.ones(1, 1000)).item() == 1000


def test_backbone_runs_once_and_only_named_heads_are_computed(make_config) -> None:
    model = build_model(make_config(), ("prognosis", "severity"), weights=False)
    calls: list[str] = []
    model.backbone.register_forward_hook(lambda *_: calls.append("backbone"))
    for task, head in model.heads.items():
        head.register_forward_hook(lambda *_, task=task: calls.append(task))
    images = torch.rand(3, 1, 32, 32)
    outputs = model(images)
    assert {task: out.shape for task, out in outputs.items()} == {
        "prognosis": (3, 2),
        "severity": (3, 6),
    }
    assert calls == ["backbone", "prognosis", "severity"]
    calls.clear()
    assert list(model(images, ["severity"])) == ["severity"]
    assert calls == ["backbone", "severity"]


def test_initial_values_depend_on_seed_and_task_alone(make_config) -> None:
    both = build_model(make_config(), ("prognosis", "severity"), weights=False).state_dict()
    torch.rand(3)
    one = build_model(make_config(), ("severity",), weights=False).state_dict()
    assert all(torch.equal(both[name], value) for name, value in one.items())
    other = build_model(make_config(seed=1), ("severity",), weights=False).state_dict()
    for name in ("heads.severity.0.weight", "backbone.conv1.0.weight"):
        assert not torch.equal(other[name], one[name])


def test_building_leaves_the_global_generator_alone(make_config) -> None:
    before = torch.random.get_rng_state()
    build_model(make_config(), ("severity",), weights=False)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_unknown_task_is_refused(make_config) -> None:
    with pytest.raises(ConfigError, match="task outcome is not one of the federation test"):
        build_model(make_config(), ("outcome",), weights=False)


def test_task_name_that_pytorch_uses_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"tasks\.type: "):
        MDMTModel(nn.Identity(), {"type": nn.Identity()})
