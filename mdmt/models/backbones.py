"""Backbones by name: all of timm, four of torchvision, and five names of the paper."""

from collections.abc import Callable
from typing import Any

import timm
import torch
import torchvision
from torch import Tensor, nn

from mdmt.config import ModelConfig
from mdmt.config.model import CHEST_XRAY
from mdmt.errors import ConfigError
from mdmt.models.trainable import freeze
from mdmt.registry import Registry

Builder = Callable[[ModelConfig, bool], nn.Module]

backbones: Registry[Builder] = Registry("backbone", "mdmt.backbones", "timm.list_models()")
"""Functions that build backbones, by name.

A function takes the configuration, and True to download the weights of the model hub. It returns a
module whose forward returns pooled features (N, F). As in timm, the module can have a
`pretrained_cfg` that names its ``first_conv`` and the removed ``classifier``.
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
        # Transformers need the image size for their construction; most other models refuse it.
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
"""First convolution and classifier of torchvision models."""


@backbones.register(*_FIRST_AND_LAST)
def _torchvision(config: ModelConfig, pretrained: bool) -> nn.Module:
    google = config.backbone == "googlenet"
    # The initialisation of GoogLeNet is slow, and its dropout belongs to the classifier.
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
    """Build a backbone with random weights from torch's global generator.

    Parameters
    ----------
    config : ModelConfig

    Returns
    -------
    nn.Module
        Takes images, float, (N, in_channels, image_size, image_size). Returns features (N, F).

    Raises
    ------
    ConfigError
        The name is unknown, the backbone cannot take images of this size, or it has not the blocks
        of `trainable`.
    """
    build = builder_of(config)
    side = config.image_size
    try:
        backbone = build(config, False).eval()
        with torch.no_grad():
            features = backbone(torch.zeros(1, config.in_channels, side, side))
    except (RuntimeError, ValueError, AssertionError) as error:
        reason = " ".join(str(error).split())[:200]
        raise ConfigError(
            f"model: {config.backbone} cannot be built for {side} x {side} images"
            f" (model.image_size): {reason or type(error).__name__}"
        ) from error
    if not isinstance(features, Tensor) or features.ndim != 2:
        raise ConfigError(f"model.backbone: {config.backbone} does not give pooled features")
    # Measure the width: for some models of timm, num_features differs from it.
    backbone.feature_width = features.shape[1]  # type: ignore[assignment]
    freeze(backbone, config)
    return backbone.train()


def builder_of(config: ModelConfig) -> Builder:
    """Look up the function that builds a backbone. A tag of timm weights is ignored.

    Raises
    ------
    ConfigError
        The name is unknown.
    PolicyError
        The name belongs to a plug-in that is not permitted.
    """
    try:
        return backbones[config.backbone.partition(".")[0]]
    except ConfigError as error:
        raise ConfigError(f"model.backbone: {error}") from error


def feature_width(backbone: nn.Module) -> int:
    """Return F, the number of features per image of a backbone from `build_backbone`."""
    width = backbone.feature_width
    assert isinstance(width, int)
    return width


def pretrained_state(config: ModelConfig) -> dict[str, Tensor]:
    """Download the weights of a backbone from the model hub: its whole state.

    Raises
    ------
    Exception
        Any error of the hub's client, for example without such weights or without a network.
    """
    build = builder_of(config)
    with torch.random.fork_rng(devices=[]):
        return build(config, True).state_dict()


def fit_input_channels(backbone: nn.Module, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Adapt the first convolution of three-channel weights to the channels of `backbone`.

    For one channel, sum the weights over the input channels, so that a grey image gives the same
    result as its RGB version. For two channels, rescale them, as timm does.

    Parameters
    ----------
    backbone : nn.Module
    state : dict of str to Tensor
        Weights by the names of the backbone.

    Returns
    -------
    dict of str to Tensor
        The same dictionary if no change is necessary.
    """
    known = backbone.state_dict()
    fitted = dict(state)
    for name in listed_modules(backbone, "first_conv"):
        key = f"{name}.weight"
        if key in state and key in known and state[key].ndim == 4:
            channels = known[key].shape[1]
            if state[key].shape[1] == 3 != channels:
                fitted[key] = timm.models.adapt_input_conv(channels, state[key])
    return fitted


def listed_modules(backbone: nn.Module, key: str) -> tuple[str, ...]:
    """Return the modules that ``pretrained_cfg`` lists as `key`: first_conv or classifier."""
    names = getattr(backbone, "pretrained_cfg", {}).get(key) or ()
    return (names,) if isinstance(names, str) else tuple(names)
