"""Names of tensors in files of weights: prefixes, and the layouts of other libraries."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection

import torch
from timm.layers import resample_abs_pos_embed
from torch import Tensor, nn

State = dict[str, Tensor]

_WRAPPERS = frozenset({"module", "_orig_mod", "model", "backbone", "encoder"})
"""Attributes of wrappers around a backbone, of PyTorch, Lightning and the paper. A prefix of these
is removed."""
_UNUSED = frozenset({"op_threshs", "mask_token"})
"""Tensors that do not compute features: thresholds of TorchXRayVision, the mask of DINOv2."""
_PATCHES = "embeddings.patch_embeddings.projection.weight"
_DINOV2 = {
    r"embeddings\.cls_token": "cls_token",
    r"embeddings\.mask_token": "mask_token",
    r"embeddings\.position_embeddings": "pos_embed",
    r"embeddings\.patch_embeddings\.projection\.": "patch_embed.proj.",
    r"encoder\.layer\.(\d+)\.attention\.output\.dense\.": r"blocks.\1.attn.proj.",
    r"encoder\.layer\.(\d+)\.layer_scale(\d)\.lambda1": r"blocks.\1.ls\2.gamma",
    r"encoder\.layer\.(\d+)\.": r"blocks.\1.",
    r"layernorm\.": "norm.",
}
"""Names in timm of what the library transformers calls so in DINOv2 and RAD-DINO."""
_ATTENTION = re.compile(r"encoder\.layer\.(\d+)\.attention\.attention\.query\.(weight|bias)")


def named_like(backbone: nn.Module, state: State) -> State:
    """Return the tensors of a file by the names of a backbone, as far as its layout is known.

    Removed are prefixes such as ``module.`` and ``encoder.``, with all tensors beside them, and
    tensors that do not compute features. Position embeddings get the size of the backbone.

    Parameters
    ----------
    backbone : nn.Module
    state : dict of str to Tensor
    """
    known = backbone.state_dict()
    if any(key.endswith(_PATCHES) for key in state) and "patch_embed.proj.weight" in known:
        state = _from_dinov2(state)
    prefix = common_prefix(state, known)
    if prefix and set(prefix.removesuffix(".").split(".")) <= _WRAPPERS:
        state = _without(prefix, state)
    state = {k: v for k, v in state.items() if k in known or k not in _UNUSED}
    return _resized(backbone, state)


def common_prefix(state: Collection[str], known: Collection[str]) -> str:
    """Return the prefix with which most of the known names are in a file, such as ``encoder.``.

    It is empty if no prefix gives at least half of the names.
    """
    found: Counter[str] = Counter()
    for key in state:
        parts = key.split(".")
        for start in range(len(parts)):
            if ".".join(parts[start:]) in known:
                found["".join(f"{part}." for part in parts[:start])] += 1
    prefix, most = max(found.items(), key=lambda item: (item[1], -len(item[0])), default=("", 0))
    return prefix if 2 * most >= len(known) else ""


def _without(prefix: str, state: State) -> State:
    """Return what has a prefix, without it."""
    return {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}


def _from_dinov2(state: State) -> State:
    """Rename the tensors of a DINOv2 of transformers to those of timm, and join q, k and v."""
    prefix = next(key for key in state if key.endswith(_PATCHES)).removesuffix(_PATCHES)
    state, renamed = _without(prefix, state), dict[str, Tensor]()
    for key, value in state.items():
        if match := _ATTENTION.fullmatch(key):
            others = [key.replace(".query.", f".{name}.") for name in ("key", "value")]
            parts = [value, *(state[other] for other in others if other in state)]
            renamed[f"blocks.{match[1]}.attn.qkv.{match[2]}"] = torch.cat(parts)
        elif ".attention.attention." not in key:
            renamed[_renamed(key)] = value
    return renamed


def _renamed(key: str) -> str:
    for pattern, name in _DINOV2.items():
        new, changes = re.subn(f"^{pattern}", name, key)
        if changes:
            return new
    return key


def _resized(backbone: nn.Module, state: State) -> State:
    """Interpolate the position embeddings of another image size, as timm does."""
    own, given = backbone.state_dict().get("pos_embed"), state.get("pos_embed")
    grid = getattr(getattr(backbone, "patch_embed", None), "grid_size", None)
    if own is None or given is None or grid is None or own.shape == given.shape:
        return state
    if given.ndim != 3 or given.shape[-1] != own.shape[-1]:
        return state
    extra = own.shape[1] - grid[0] * grid[1]
    resized = resample_abs_pos_embed(given, list(grid), num_prefix_tokens=extra)
    return state | {"pos_embed": resized}
