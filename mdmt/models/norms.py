"""Normalisation layers. They are found by the type of a module, never by its name."""

from typing import Any

import timm.layers
import torchvision
from timm.layers.grn import GlobalResponseNorm
from torch import nn

_TIMM_FILES = {"evo_norm", "filter_response_norm", "inplace_abn", "norm", "norm_act"}
"""Files of `timm.layers` whose classes are normalisation layers, often not derived from torch's."""


def _is_norm(kind: Any) -> bool:
    return isinstance(kind, type) and kind.__module__.rpartition(".")[2] in _TIMM_FILES


NORM_TYPES: tuple[type[nn.Module], ...] = (
    nn.modules.batchnorm._NormBase,  # every BatchNorm, SyncBatchNorm and InstanceNorm
    *(nn.GroupNorm, nn.LayerNorm, nn.RMSNorm, torchvision.ops.FrozenBatchNorm2d),
    *(kind for kind in vars(timm.layers).values() if _is_norm(kind)),
    GlobalResponseNorm,
)


def norm_modules(model: nn.Module) -> dict[str, nn.Module]:
    """Return the normalisation layers of `model` by name."""
    return {name: m for name, m in model.named_modules() if isinstance(m, NORM_TYPES)}


def norm_tensors(model: nn.Module) -> set[str]:
    """Return the names of all tensors of normalisation layers."""
    return {
        f"{prefix}.{name}" if prefix else name
        for prefix, module in norm_modules(model).items()
        for name in module.state_dict()
    }
