"""The model of a site in this process, from one message to the next."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor, nn

from client.link import Link
from mdmt.config import parse_recipe
from mdmt.models import MDMTModel, build_model, load_staying, received, set_arrays, travelling
from mdmt.wire import most_bytes

__all__ = ["MOMENTS", "SiteModel", "site_model"]

MOMENTS = "moments."
"""Before the name of an optimiser's moment in what a site keeps of a round."""


@dataclass(frozen=True)
class SiteModel:
    """A model, and what is the same in all its rounds.

    Attributes
    ----------
    model : MDMTModel
    first_heads : dict of str to Tensor
        Initial values of its heads.
    returned : tuple of str
        Names of the arrays that travel back.
    limit : int
        Most bytes the arrays received can have.
    """

    model: MDMTModel
    first_heads: dict[str, Tensor]
    returned: tuple[str, ...]
    limit: int

    def restore(self, saved: Mapping[str, Tensor], link: Link, blob: bytes) -> dict[str, Tensor]:
        """Put into the model what was received and what the site kept; the moments it kept.

        Parameters
        ----------
        saved : mapping of str to Tensor
            What the site kept of its last round; empty if there was none.
        link : Link
        blob : bytes
            What was received.
        """
        arrays = link.receive(blob, self.limit)
        set_arrays(self.model, arrays)
        kept = {name: value for name, value in saved.items() if not name.startswith(MOMENTS)}
        # A site without a past starts from the federation's initial heads.
        first = {name: value for name, value in self.first_heads.items() if name not in arrays}
        load_staying(self.model, kept or first)
        return {k.removeprefix(MOMENTS): v for k, v in saved.items() if k.startswith(MOMENTS)}


@lru_cache(maxsize=1)
def _backbone(recipe: str, device: torch.device) -> nn.Module:
    """The last backbone built in this process: its sites lend it to each other."""
    return build_model(parse_recipe(recipe), (), weights=False).backbone.to(device)


@lru_cache(maxsize=16)
def site_model(recipe: str, tasks: tuple[str, ...], device: torch.device) -> SiteModel:
    """The model of the sites that have these tasks."""
    federation = parse_recipe(recipe)
    backbone = _backbone(recipe, device)
    model = build_model(federation, tasks, weights=False, backbone=backbone).to(device)
    tensors, names = model.state_dict(), received(model, federation.aggregation)
    return SiteModel(
        model,
        {f"heads.{name}": value.clone() for name, value in model.heads.state_dict().items()},
        travelling(model, federation.aggregation),
        most_bytes(4 * tensors[name].numel() for name in names),
    )
