from __future__ import annotations

import pytest
import timm
from torch import nn

from mdmt.config import AggregationConfig, ModelConfig
from mdmt.errors import ConfigError
from mdmt.models import (
    MDMTModel,
    averaged_statistics,
    frozen_names,
    local_tensors,
    optimised_names,
    set_training_mode,
    uploaded_names,
)
from mdmt.models.backbones import build_backbone
from mdmt.models.norms import norm_tensors
from mdmt.models.trainable import freeze, frozen_tensors


def model_of(name: str, trainable: object) -> MDMTModel:
    config = ModelConfig(backbone=name, image_size=64, trainable=trainable)
    return MDMTModel(build_backbone(config), {"a": nn.Linear(2, 1)})


@pytest.mark.parametrize(
    ("name", "number", "modules"),
    [
        ("test_resnet", 1, ("layer4.0.",)),
        ("test_resnet", 2, ("layer3.0.", "layer4.0.")),
        ("test_vit", 1, ("blocks.5.", "norm.")),
        ("test_efficientnet", 1, ("blocks.4.0.", "conv_head.", "bn2.")),
    ],
)
def test_the_last_blocks_and_what_follows_them_train(
    name: str, number: int, modules: tuple[str, ...]
) -> None:
    backbone = model_of(name, {"last_blocks": number}).backbone
    last = {key for key in backbone.state_dict() if key.startswith(modules)}
    assert backbone.state_dict().keys() - frozen_tensors(backbone) == last


@pytest.mark.parametrize("name", timm.list_models("test_*"))
def test_every_small_backbone_of_timm_has_blocks(name: str) -> None:
    backbone = model_of(name, "all").backbone
    found = [frozen_tensors(backbone)]
    for number in (2, 1):
        freeze(backbone, ModelConfig(backbone=name, trainable={"last_blocks": number}))
        found.append(frozen_tensors(backbone))
    assert not found[0]
    assert found[0] < found[1] < found[2] < backbone.state_dict().keys()


def test_layers_that_no_group_contains_follow_the_last_block() -> None:
    """Like the last normalisation of timm's DenseNet."""
    backbone = nn.Module()
    for name in ("stem", "block1", "block2", "final"):
        backbone.add_module(name, nn.BatchNorm2d(1))
    backbone.group_matcher = lambda: {"stem": "stem", "blocks": r"block(\d)"}  # type: ignore[assignment]
    freeze(backbone, ModelConfig(backbone="own", trainable={"last_blocks": 1}))
    kept = backbone.state_dict().keys() - frozen_tensors(backbone)
    assert {name.partition(".")[0] for name in kept} == {"block2", "final"}


@pytest.mark.parametrize(
    ("name", "number", "message"),
    [
        ("test_resnet", 5, "model.trainable: test_resnet has 4 blocks, not 5"),
        ("shufflenet_v2_x0_5", 1, "shufflenet_v2_x0_5 has no list of its blocks"),
    ],
)
def test_blocks_that_are_not_there_are_refused(name: str, number: int, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        model_of(name, {"last_blocks": number})


def test_norms_and_none_freeze_all_others() -> None:
    norms = model_of("test_resnet", "norms").backbone
    assert norms.state_dict().keys() - frozen_tensors(norms) == norm_tensors(norms)
    none = model_of("test_resnet", "none").backbone
    assert frozen_tensors(none) == none.state_dict().keys()


@pytest.mark.parametrize("policy", ["average", "local", "frozen"])
@pytest.mark.parametrize("trainable", [{"last_blocks": 1}, "norms", "none"])
def test_frozen_tensors_are_neither_uploaded_nor_kept(policy: str, trainable: object) -> None:
    model, aggregation = model_of("test_resnet", trainable), AggregationConfig(norm_layers=policy)
    frozen = frozen_names(model, aggregation)
    uploaded = {*uploaded_names(model, aggregation)}
    kept = {n for n in local_tensors(model, aggregation) if n.startswith("backbone.")}
    floats = {n for n, t in model.state_dict().items() if t.is_floating_point()}
    assert not frozen & (uploaded | kept)
    assert uploaded | kept | frozen >= {n for n in floats if n.startswith("backbone.")}
    assert {*averaged_statistics(model, aggregation)} <= uploaded
    assert {*optimised_names(model, aggregation)} <= uploaded
    if policy == "frozen":  # a block without its normalisation layers
        assert not uploaded & norm_tensors(model)


def test_a_phase_trains_one_part_and_the_next_mode_undoes_it() -> None:
    model = model_of("test_resnet", "all")

    def state(part: str) -> tuple[set[bool], set[bool], bool]:
        set_training_mode(model, "average", part)  # type: ignore[arg-type]
        backbone = {p.requires_grad for p in model.backbone.parameters()}
        heads = {p.requires_grad for p in model.heads.parameters()}
        return backbone, heads, model.backbone.training

    assert state("heads") == ({False}, {True}, False)
    assert state("backbone") == ({True}, {False}, True)
    assert state("all") == ({True}, {True}, True)


def test_frozen_blocks_compute_as_in_evaluation() -> None:
    model = model_of("test_resnet", {"last_blocks": 1})
    set_training_mode(model, "average")
    for number in (3, 4):
        block = model.backbone.get_submodule(f"layer{number}.0")
        assert {module.training for module in block.modules()} == {number == 4}
        assert {parameter.requires_grad for parameter in block.parameters()} == {number == 4}
