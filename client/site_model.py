"""The model of a site in this process, from one message to the next."""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor, nn

from mdmt.config import parse_recipe
from mdmt.models import MDMTModel, broadcast_names, build_model, uploaded_names
from mdmt.wire import largest_message

__all__ = ["SiteModel", "site_model"]


class SiteModel(NamedTuple):
    """A model, and what is the same in all its rounds."""

    model: MDMTModel
    initial: dict[str, Tensor]
    """Initial values of its heads."""
    uploaded: tuple[str, ...]
    """Names of the arrays that go back to the server."""
    limit: int
    """Most bytes that a message with its arrays can have."""


@lru_cache(maxsize=1)
def _backbone(recipe: str, device: torch.device) -> nn.Module:
    """The last backbone built in this process: all its sites use it in turn."""
    return build_model(parse_recipe(recipe), (), weights=False).backbone.to(device)


@lru_cache(maxsize=16)
def site_model(recipe: str, tasks: tuple[str, ...], device: torch.device) -> SiteModel:
    """The model of the sites that have these tasks."""
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
