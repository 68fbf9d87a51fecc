"""Files of weights in the layouts of other libraries, with random values."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from mdmt.config import ModelConfig
from mdmt.errors import WeightsError
from mdmt.models.backbones import build_backbone
from mdmt.models.weight_layouts import common_prefix, named_like
from mdmt.models.weights import load_weights

State = dict[str, Tensor]


def randomised(module: nn.Module) -> State:
    generator = torch.Generator().manual_seed(7)
    return {
        name: torch.rand(tensor.shape, generator=generator) if tensor.ndim else tensor
        for name, tensor in module.state_dict().items()
    }


def load(content: object, tmp_path: Path, name: str = "test_resnet", channels: int = 1) -> State:
    """The state of a backbone that starts from a file with this content."""
    file = tmp_path / "chest.pth"
    torch.save(content, file)
    config = ModelConfig(backbone=name, weights=str(file), in_channels=channels, image_size=32)
    backbone = build_backbone(config)
    load_weights(backbone, config)
    return backbone.state_dict()


def same(found: State, expected: State) -> bool:
    return all(torch.equal(value, expected[name]) for name, value in found.items())


@pytest.fixture(scope="module")
def state() -> State:
    config = ModelConfig(backbone="test_resnet", image_size=32)
    return randomised(build_backbone(config))


@pytest.mark.parametrize(
    "prefix",
    ["module.", "encoder.", "_orig_mod.", "model.", "module._orig_mod.", "module.encoder."],
)
def test_prefixes_of_wrappers_are_removed(tmp_path: Path, state: State, prefix: str) -> None:
    """With what is beside the backbone, such as a classifier."""
    others = {"classifier.weight": torch.ones(2), "op_threshs": torch.ones(3)}
    file = {"epoch": 9, "model_state_dict": {prefix + k: v for k, v in state.items()} | others}
    assert same(load(file, tmp_path), state)


def test_another_prefix_is_named(tmp_path: Path, state: State) -> None:
    file = {f"image_tower.trunk.{k}": v for k, v in state.items()}
    hint = r"its tensors start with 'image_tower.trunk.': save them without it$"
    with pytest.raises(WeightsError, match=hint):
        load(file, tmp_path)


def test_a_file_of_another_model_has_no_prefix(state: State) -> None:
    assert common_prefix(["a.b.conv1.weight", "c"], state) == ""
    assert common_prefix([], state) == ""


def test_a_file_of_one_channel_names_the_key(tmp_path: Path, state: State) -> None:
    with pytest.raises(WeightsError, match=r"; the file is for model.in_channels 1$"):
        load(state, tmp_path, channels=3)


def test_densenet121_of_torchxrayvision(tmp_path: Path) -> None:
    """Its layers have the names of torchvision; it has one channel, 18 labels and thresholds."""
    from torchvision.models import densenet121

    with torch.device("meta"):
        theirs = densenet121(num_classes=18).state_dict()
    theirs["features.conv0.weight"] = torch.empty(64, 1, 7, 7, device="meta")
    generator = torch.Generator().manual_seed(7)
    file = {
        name: torch.rand(t.shape, generator=generator) if t.is_floating_point() else torch.tensor(0)
        for name, t in theirs.items()
    }
    found = load(file | {"op_threshs": torch.rand(18)}, tmp_path, "densenet121_CXR")
    assert same(found, file)
    assert found.keys() == {n for n in file if not n.startswith("classifier.")}


def tiny_dinov2(size: int = 28) -> VisionTransformer:
    return VisionTransformer(
        img_size=size, patch_size=14, in_chans=1, embed_dim=8, depth=2, num_heads=2,
        init_values=1e-5, num_classes=0,
    )  # fmt: skip


def in_transformers(state: State, prefix: str = "") -> State:
    """The tensors of a DINOv2 of timm by the names of transformers."""
    renamed = {"embeddings.mask_token": torch.zeros(1, 8)}
    for key, value in state.items():
        if ".qkv." in key:
            block, leaf = key.split(".")[1], key.rpartition(".")[2]
            for name, part in zip(("query", "key", "value"), value.chunk(3), strict=True):
                renamed[f"encoder.layer.{block}.attention.attention.{name}.{leaf}"] = part
            continue
        for ours, theirs in (
            ("cls_token", "embeddings.cls_token"),
            ("pos_embed", "embeddings.position_embeddings"),
            ("patch_embed.proj", "embeddings.patch_embeddings.projection"),
            ("blocks", "encoder.layer"),
            ("norm.", "layernorm."),
        ):
            if key.startswith(ours):
                key = key.replace(ours, theirs, 1)
                break
        key = key.replace("attn.proj", "attention.output.dense")
        for number in "12":
            key = key.replace(f"ls{number}.gamma", f"layer_scale{number}.lambda1")
        renamed[key] = value
    return {prefix + key: value for key, value in renamed.items()}


@pytest.mark.parametrize("prefix", ["", "dinov2.", "module.encoder."])
def test_dinov2_of_transformers_as_rad_dino(prefix: str) -> None:
    vit = tiny_dinov2()
    state = randomised(vit)
    file = in_transformers(state, prefix) | {"classifier.weight": torch.ones(2)}
    found = named_like(vit, file if prefix else in_transformers(state))
    assert found.keys() == state.keys()
    assert same(found, state)


def test_position_embeddings_follow_the_image_size() -> None:
    """2 x 2 patches become 4 x 4; the one of the class token stays, and a constant stays."""
    state = randomised(tiny_dinov2())
    state["pos_embed"][:, 1:] = 0.25
    found = named_like(tiny_dinov2(56), in_transformers(state))["pos_embed"]
    assert found.shape == (1, 17, 8)
    assert torch.equal(found[:, 0], state["pos_embed"][:, 0])
    torch.testing.assert_close(found[:, 1:], torch.full((1, 16, 8), 0.25))
