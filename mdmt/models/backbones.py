"""Backbones by name: anything of timm, four of torchvision, and the paper's names."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import timm
import torch
import torchvision
from torch import Tensor, nn

from mdmt.config import ModelConfig
from mdmt.config.federation import CHEST_XRAY
from mdmt.errors import ConfigError
from mdmt.registry import Registry

__all__ = [
    "backbones",
    "build_backbone",
    "builder_of",
    "listed_modules",
    "feature_width",
    "fit_input_channels",
    "pretrained_state",
]

Builder = Callable[[ModelConfig, bool], nn.Module]

backbones: Registry[Builder] = Registry("backbone", "mdmt.backbones", "timm.list_models()")
"""Functions that build backbones, by name.

A function takes the configuration and whether to fetch the hub's weights, and returns a module
whose forward gives pooled features (N, F). As in timm, `pretrained_cfg` of the module, if it has
one, names its ``first_conv`` and the ``classifier`` that was left out.
"""


@backbones.register(*timm.list_models())
def _timm(config: ModelConfig, pretrained: bool) -> nn.Module:
    options: dict[str, Any] = {
        "pretrained": pretrained,
        "num_classes": 0,
        "in_chans": config.in_channels,
    }
    try:
        model = timm.create_model(config.backbone, img_size=config.image_size, **options)
    except TypeError as error:
        # Transformers must know the image size when they are built; most others do not take it.
        if "img_size" not in str(error):
            raise
        model = timm.create_model(config.backbone, **options)
    return model  # type: ignore[no-any-return]


@backbones.register(*CHEST_XRAY)
def _chest_xray(config: ModelConfig, pretrained: bool) -> nn.Module:
    return _timm(config.model_copy(update={"backbone": CHEST_XRAY[config.backbone]}), pretrained)


_FIRST_AND_LAST = {
    "googlenet": ("conv1.conv", "fc"),
    "mobilenet_v2": ("features.0.0", "classifier"),
    "shufflenet_v2_x0_5": ("conv1.0", "fc"),
    "shufflenet_v2_x1_0": ("conv1.0", "fc"),
}
"""torchvision's first convolution and classifier."""


@backbones.register(*_FIRST_AND_LAST)
def _torchvision(config: ModelConfig, pretrained: bool) -> nn.Module:
    google = config.backbone == "googlenet"
    # GoogLeNet's own initialisation is slow, and its dropout belongs to the classifier.
    options = {"aux_logits": False, "init_weights": False, "dropout": 0.0} if google else {}
    model: nn.Module = torchvision.models.get_model(config.backbone, weights=None, **options)
    first, last = _FIRST_AND_LAST[config.backbone]
    setattr(model, last, nn.Identity())
    conv = model.get_submodule(first)
    assert isinstance(conv, nn.Conv2d)
    if config.in_channels != conv.in_channels:
        conv.in_channels = config.in_channels
        conv.weight = nn.Parameter(torch.empty_like(conv.weight[:, : config.in_channels]))
        conv.reset_parameters()
    classifier = (last, "aux1", "aux2") if google else last
    cfg = {"first_conv": first, "classifier": classifier}
    model.pretrained_cfg = cfg  # type: ignore[assignment]
    if pretrained:
        weights = torchvision.models.get_model_weights(config.backbone).DEFAULT
        state = fit_input_channels(model, weights.get_state_dict(progress=False))
        model.load_state_dict({key: state[key] for key in model.state_dict()})
    return model


def build_backbone(config: ModelConfig) -> nn.Module:
    """Build a backbone with random weights, drawn from torch's global generator.

    Parameters
    ----------
    config : ModelConfig

    Returns
    -------
    nn.Module
        Takes images, float, (N, in_channels, image_size, image_size); gives features (N, F).

    Raises
    ------
    ConfigError
        The name is unknown, or the backbone cannot take images of this size.
    """
    build = builder_of(config)
    side = config.image_size
    try:
        backbone = build(config, False)
        features = _features(backbone, torch.zeros(1, config.in_channels, side, side))
    except (RuntimeError, ValueError, AssertionError) as error:
        reason = " ".join(str(error).split())[:200]
        raise ConfigError(
            f"model: {config.backbone} cannot be built for {side} x {side} images"
            f" (model.image_size): {reason or type(error).__name__}"
        ) from error
    if not isinstance(features, Tensor) or features.ndim != 2:
        raise ConfigError(f"model.backbone: {config.backbone} does not give pooled features")
    # timm's num_features is not what forward gives for every model, so it is measured.
    backbone.feature_width = features.shape[1]  # type: ignore[assignment]
    return backbone


def builder_of(config: ModelConfig) -> Builder:
    """Look up the function that builds a backbone; the tag of timm's weights plays no part.

    Raises
    ------
    ConfigError
        The name is unknown.
    PolicyError
        It is that of a plug-in which is not permitted.
    """
    try:
        return backbones[config.backbone.partition(".")[0]]
    except ConfigError as error:
        raise ConfigError(f"model.backbone: {error}") from error


def feature_width(backbone: nn.Module) -> int:
    """F, the number of features that a backbone of `build_backbone` gives per image."""
    width = backbone.feature_width
    assert isinstance(width, int)
    return width


def pretrained_state(config: ModelConfig) -> dict[str, Tensor]:
    """Fetch the weights that the model hub has for a backbone: its whole state.

    Raises
    ------
    Exception
        Whatever the hub's client raises when there are no such weights or there is no network.
    """
    build = builder_of(config)
    with torch.random.fork_rng(devices=[]):
        return build(config, True).state_dict()


def fit_input_channels(backbone: nn.Module, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Fit the first convolution of three-channel weights to the channels of `backbone`.

    For one channel the weights are summed over the input channels, so that a grey image gives what
    it gave as RGB; for two they are rescaled: timm's convention.

    Parameters
    ----------
    backbone : nn.Module
    state : dict of str to Tensor
        Weights by the names of the backbone.

    Returns
    -------
    dict of str to Tensor
        The same where nothing had to change.
    """
    known = backbone.state_dict()
    fitted = dict(state)
    for name in listed_modules(backbone, "first_conv"):
        key = f"{name}.weight"
        if key not in state or key not in known or state[key].ndim != 4:
            continue
        channels = known[key].shape[1]
        if state[key].shape[1] == 3 != channels:
            fitted[key] = timm.models.adapt_input_conv(channels, state[key])
    return fitted


def listed_modules(backbone: nn.Module, key: str) -> tuple[str, ...]:
    """Names of the modules that ``pretrained_cfg`` lists as `key`: first_conv or classifier."""
    names = getattr(backbone, "pretrained_cfg", {}).get(key) or ()
    return (names,) if isinstance(names, str) else tuple(names)


@torch.no_grad()
def _features(backbone: nn.Module, images: Tensor) -> Any:
    """Features of `images`, leaving the backbone in training mode as it was built."""
    features = backbone.eval()(images)
    backbone.train()
    return features
