"""The model of a site in this process. It is kept between messages."""

from __future__ import annotations

from functools import lru_cache
from typing import Any, NamedTuple

import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from mdmt.config import parse_recipe
from mdmt.errors import PolicyError
from mdmt.models import (
    MDMTModel,
    broadcast_names,
    build_model,
    get_frozen_arrays,
    uploaded_names,
)
from mdmt.wire import Codec, largest_message


class SiteModel(NamedTuple):
    """A model, and the facts that are the same in all its rounds."""

    model: MDMTModel
    initial: dict[str, Tensor]
    """Initial values of the heads."""
    broadcast: frozenset[str]
    """Names of the arrays that the server sends."""
    frozen: dict[str, int]
    """Bytes of the frozen arrays by name."""
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
        frozenset(names),
        {n: a.nbytes for n, a in get_frozen_arrays(model, federation.aggregation).items()},
        uploaded_names(model, federation.aggregation),
        largest_message({name: 4 * tensors[name].numel() for name in names}),
    )


def receive(codec: Codec, blob: bytes, own: SiteModel) -> dict[str, NDArray[Any]]:
    """Decode the arrays of an order, which must be those that the server broadcasts.

    Raises
    ------
    PolicyError
        The message is too large, or an array is missing or is not one of them.
    """
    if len(blob) > own.limit:
        raise PolicyError(f"the arrays have {len(blob)} bytes, at most {own.limit} are expected")
    incoming = codec.receive(blob, own.limit)
    if wrong := sorted(own.broadcast ^ incoming.keys()):
        what = "is missing" if wrong[0] in own.broadcast else "is not one of them"
        raise PolicyError(f"expected the arrays of the backbone: {wrong[0][:64]!r} {what}")
    return incoming
