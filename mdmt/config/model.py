"""The shared backbone: its architecture, its initial weights, and what of it trains."""

import hashlib
import re
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BeforeValidator, Discriminator, Field, Tag, model_validator

from mdmt.errors import ConfigError
from mdmt.strict import Strict

CHEST_XRAY = {
    "densenet121_CXR": "densenet121",
    "resnet50_ChestX-ray14": "resnet50",
    "resnet50_ChexPert": "resnet50",
    "resnet50_ImageNet_ChestX-ray14": "resnet50",
    "resnet50_ImageNet_ChexPert": "resnet50",
}
"""Architecture by the paper's name, for backbones with weights from chest radiographs."""


_BY_NAME = ("none", "timm", "offline")
"""Values of `model.weights` that are not files."""
BY_CONTENT = "sha256:"
"""Prefix of `model.weights` in a recipe, if the weights are in a file."""


def _known_weights(value: str) -> str:
    known = "|".join((*_BY_NAME, BY_CONTENT + "[0-9a-f]{64}", r".*\.(safetensors|pth|pt)"))
    if not re.fullmatch(known, value):
        raise ValueError("expected none, timm, offline or a .safetensors, .pth or .pt file")
    return value


def content_name(weights: str) -> str:
    """Return `model.weights` as a recipe writes it: a file is named by its SHA-256.

    Raises
    ------
    ConfigError
        The file cannot be read.
    """
    if weights in _BY_NAME or weights.startswith(BY_CONTENT):
        return weights
    try:
        state = Path(weights).stat()
        return BY_CONTENT + _file_hash(weights, state.st_mtime_ns, state.st_size)
    except OSError as error:
        raise ConfigError(f"model.weights: {weights}: {error.strerror}") from error


@lru_cache(maxsize=16)
def _file_hash(file: str, changed: int, size: int) -> str:
    """Return the SHA-256 of a file that last `changed` at this time."""
    with Path(file).open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


class LastBlocks(Strict):
    """Train the last blocks of the backbone, and what follows them."""

    last_blocks: Annotated[int, Field(gt=0)]


def _trainable(value: Any) -> Any:
    """Refuse what is not one of the names or a number of blocks, with one error instead of four."""
    known = ("all", "norms", "none")
    if not (isinstance(value, dict | LastBlocks) or value in known):
        raise ValueError("expected all, norms, none or {last_blocks: 2}")
    return value


Trainable = Annotated[
    Annotated[Literal["all", "norms", "none"], Tag("name")]
    | Annotated[LastBlocks, Tag("last_blocks")],
    Discriminator(lambda value: "name" if isinstance(value, str) else "last_blocks"),
    BeforeValidator(_trainable),
]
"""The part of the backbone that trains. The heads always train."""


class ModelConfig(Strict):
    """The shared backbone."""

    backbone: str
    """A timm name; googlenet, mobilenet_v2, shufflenet_v2_x0_5 or _x1_0; or one of `CHEST_XRAY`."""
    weights: Annotated[str, AfterValidator(_known_weights)] = "none"
    """``none``, ``timm`` (model hub), ``offline`` (pip package), or a .safetensors/.pth path."""
    trainable: Trainable = "all"
    """The part of the backbone that trains; the rest keeps its initial values."""
    in_channels: Annotated[int, Field(ge=1, le=3)] = 1
    image_size: Annotated[int, Field(ge=16, le=4096)] = 224

    @model_validator(mode="after")
    def _chest_xray_weights(self) -> Self:
        if self.backbone in CHEST_XRAY and self.weights in ("none", "timm", "offline"):
            raise ValueError(
                f"{self.backbone} is {CHEST_XRAY[self.backbone]} with weights from chest"
                " radiographs; set model.weights to their file"
            )
        return self
