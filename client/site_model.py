"""The model of a site in this process. It is kept between messages."""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor, nn

from mdmt.config import parse_recipe
from mdmt.models import MDMTModel, broadcast_names, build_model, uploaded_names
from mdmt.wire import largest_message


class SiteModel(NamedTuple):
    """A model, and the facts that are the same in all its rounds."""

    model: MDMTModel
    initial: dict[str, Tensor]
    """Initial values of the heads."""
    uploaded: tuple[str, ...]
    """Names of the arrays that are sent back to the server."""
    limit: int
    """Largest size of a message with its arrays, in bytes."""


@lru_cache(maxsize=1)
def _backbone(recipe: str, device: torch.device) -> nn.Module:
    """Return the backbone of this process. All sites of the process use it in turn."""
    return build_model(parse_recipe(recipe), (), weights=False).backbone.to(device)


@lru_cache(maxsize=16)
def site_model(recipe: str, tasks: tuple[str, ...], device: torch.device) -> SiteModel:
    """Return the model of sites with these tasks."""
    federation = parse_recipe(recipe)
    backbone = _backbone(recipe, device)
    model = build_model(federation, tasks, weights=False, backbone=backbone).to(device)
    tensors, names = model.state_dict(), broadcast_names(model, federation.aggregation)
    return SiteModel(
        model,
        {f"heads.{name}": value.clone() for name, value in model.heads.state_dict().items()},
        uploaded_names(model, federation.aggregation),
        largest_message({name: 4 * tensors[name].numel() for name in names}),
    )
