"""The 24 backbones of the paper's launcher: each is what its name says, and trains."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torchvision
from pydantic import ValidationError

from mdmt.config import ModelConfig
from mdmt.config.model import CHEST_XRAY
from mdmt.errors import WeightsError
from mdmt.models.backbones import build_backbone, feature_width
from mdmt.models.weights import load_weights

# Parameters as `meta["num_params"]` of torchvision's weights gives them, classifier included.
TORCHVISION = {
    "densenet121": 7_978_856,
    "densenet161": 28_681_000,
    "densenet169": 14_149_480,
    "densenet201": 20_013_928,
    "resnet18": 11_689_512,
    "resnet34": 21_797_672,
    "resnet50": 25_557_032,
    "resnet101": 44_549_160,
    "resnext50_32x4d": 25_028_904,
    "wide_resnet50_2": 68_883_240,
    "mobilenet_v2": 3_504_872,
    "googlenet": 6_624_904,
    "shufflenet_v2_x0_5": 1_366_792,
    "shufflenet_v2_x1_0": 2_278_604,
    "efficientnet_b0": 5_288_548,
}
# Millions of parameters in timm's table of ImageNet results.
TIMM = {
    "efficientnet_lite0": 4.65,
    "efficientnet_es": 5.44,
    "efficientnet_es_pruned": 5.44,  # pruning left its shape alone and set weights to zero
    "efficientnet_b1_pruned": 6.33,  # efficientnet_b1 has 7.79
}
NAMES = [*TORCHVISION, *TIMM, *CHEST_XRAY]


def build(name: str) -> torch.nn.Module:
    weights = "chest.pth" if name in CHEST_XRAY else "none"
    return build_backbone(ModelConfig(backbone=name, weights=weights, in_channels=3, image_size=64))


def test_the_launcher_has_24_names() -> None:
    assert len(set(NAMES)) == 24


@pytest.mark.parametrize("name", NAMES)
def test_backbone_has_the_published_parameters_and_trains(name: str) -> None:
    backbone = build(name)
    # What a backbone lacks of the published model is the layer from F features to 1000 classes.
    classifier = (feature_width(backbone) + 1) * 1000
    parameters = sum(p.numel() for p in backbone.parameters()) + classifier
    if name in TIMM:
        assert round(parameters / 1e6, 2) == TIMM[name]
    else:
        architecture = CHEST_XRAY.get(name, name)
        weights = torchvision.models.get_model_weights(architecture).DEFAULT
        assert parameters == TORCHVISION[architecture] == weights.meta["num_params"]
    features = backbone(torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0)))
    features.square().sum().backward()
    for parameter_name, parameter in backbone.named_parameters():
        assert parameter.grad is not None, parameter_name
        assert torch.isfinite(parameter.grad).all(), parameter_name
    assert any(parameter.grad.abs().sum() > 0 for parameter in backbone.parameters())


@pytest.mark.parametrize("name", CHEST_XRAY)
@pytest.mark.parametrize("weights", ["none", "timm", "offline"])
def test_chest_x_ray_backbones_say_that_they_need_a_file(name: str, weights: str) -> None:
    with pytest.raises(ValidationError) as caught:
        ModelConfig(backbone=name, weights=weights)
    (problem,) = caught.value.errors()
    assert f"{name} is {CHEST_XRAY[name]} with weights from chest radiographs" in problem["msg"]
    assert "model.weights" in problem["msg"]


def test_chest_x_ray_backbone_starts_from_its_file(tmp_path: Path) -> None:
    file = tmp_path / "resnet50.pth"
    whole = torchvision.models.resnet50(weights=None).state_dict()
    torch.save(whole, file)
    config = ModelConfig(backbone="resnet50_ChexPert", weights=str(file), image_size=64)
    backbone = build_backbone(config)
    load_weights(backbone, config)
    assert torch.equal(
        backbone.state_dict()["layer1.0.conv1.weight"], whole["layer1.0.conv1.weight"]
    )
    # Three input channels became one: their sum.
    summed = whole["conv1.weight"].sum(dim=1, keepdim=True)
    torch.testing.assert_close(backbone.state_dict()["conv1.weight"], summed)


def test_mobilenet_v2_takes_torchvisions_own_weights(tmp_path: Path) -> None:
    file = tmp_path / "mobilenet_v2.pth"
    torch.save(torchvision.models.mobilenet_v2(weights=None).state_dict(), file)
    config = ModelConfig(backbone="mobilenet_v2", weights=str(file), image_size=64)
    backbone = build_backbone(config)
    load_weights(backbone, config)
    state = torch.load(file, weights_only=True)
    assert torch.equal(backbone.state_dict()["features.18.0.weight"], state["features.18.0.weight"])


def test_file_of_another_architecture_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "resnet18.pth"
    torch.save(torchvision.models.resnet18(weights=None).state_dict(), file)
    config = ModelConfig(backbone="densenet121_CXR", weights=str(file), image_size=64)
    with pytest.raises(WeightsError, match="is not a tensor of this backbone"):
        load_weights(build_backbone(config), config)
