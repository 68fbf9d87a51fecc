"""The tensors of a backbone that training never changes (`model.trainable`)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from timm.models._manipulate import group_with_matcher  # the public function takes no buffers
from torch import nn

from mdmt.config import LastBlocks, ModelConfig
from mdmt.errors import ConfigError
from mdmt.models.norms import norm_tensors

_AFTER = "-"
"""A name that no tensor has. It is grouped with the layers after the last block."""


def freeze(backbone: nn.Module, config: ModelConfig) -> None:
    """Fix which tensors of a new backbone are frozen, see `frozen_tensors`.

    With ``all`` these are only the parameters that the backbone itself does not train.

    Raises
    ------
    ConfigError
        The blocks of the backbone are not known, or it has fewer.
    """
    tensors = backbone.state_dict()
    frozen = {name for name, p in backbone.named_parameters() if not p.requires_grad}
    match config.trainable:
        case "norms":
            frozen |= tensors.keys() - norm_tensors(backbone)
        case "none":
            frozen |= tensors.keys()
        case LastBlocks(last_blocks=number):
            blocks = _blocks(backbone, config.backbone)
            if number > len(blocks):
                raise ConfigError(
                    f"model.trainable: {config.backbone} has {len(blocks)} blocks, not {number}"
                )
            frozen |= tensors.keys() - {name for block in blocks[-number:] for name in block}
    backbone.frozen_tensors = frozenset(frozen)  # type: ignore[assignment]


def frozen_tensors(backbone: nn.Module) -> frozenset[str]:
    """Return the names in the state of a backbone that training never changes."""
    frozen: object = getattr(backbone, "frozen_tensors", frozenset())
    assert isinstance(frozen, frozenset)
    return frozen


def _blocks(backbone: nn.Module, name: str) -> list[list[str]]:
    """Return the names of the tensors of each block, in the order of the forward pass.

    The grouping is timm's, which its layer-wise rates use too. The first group is the stem. Layers
    after the last block belong to it.
    """
    find: Callable[[], Any] | None = getattr(backbone, "group_matcher", None)
    if find is None:
        raise ConfigError(
            f"model.trainable: {name} has no list of its blocks (group_matcher of timm); use all,"
            " norms or none, or a backbone of timm"
        )
    matcher = find()
    tensors = dict.fromkeys((*backbone.state_dict(), _AFTER))
    groups: Mapping[int, list[str]] = group_with_matcher(tensors.items(), matcher)
    blocks = [groups[number] for number in sorted(groups)][1:]
    after = blocks.pop() if _AFTER in blocks[-1] and len(blocks) > 1 else []
    blocks[-1] = [*blocks[-1], *after]
    return blocks
