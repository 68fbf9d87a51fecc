"""FedRep (Collins et al. 2021): each round fits the heads first, then the backbone."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from mdmt.algorithms.base import Update, algorithms, needs_local_heads
from mdmt.algorithms.fedavg import FedAvg

if TYPE_CHECKING:
    from mdmt.config import FederationConfig
    from mdmt.site_round import SiteRound


@algorithms.register("fedrep")
class FedRep(FedAvg):
    """The site trains its heads with the backbone fixed, then the backbone with the heads fixed.

    Algorithm 1 of Collins et al. 2021 ("Exploiting Shared Representations for Personalized
    Federated Learning", ICML). The heads fit the backbone that the site received before it changes.
    Then only the backbone is trained, for the usual steps of a round, and averaged.

    Both trainings see the images in the same order. While the heads are trained, the backbone is in
    evaluation mode, and no gradient passes through it. The additional cost is the forward passes of
    `head_steps`.
    """

    name: str = "fedrep"
    head_steps: Annotated[int, Field(gt=0)] = 10
    """Optimiser steps of the heads in each round, before the steps of the backbone."""

    def round_steps(self, steps: int) -> int:
        """Add the steps of the heads."""
        return self.head_steps + steps

    def conflicts(self, config: FederationConfig) -> Iterator[str]:
        """Each site needs its own heads, and its training has two parts."""
        yield from needs_local_heads(config)
        if config.training.warmup_rounds:
            yield "training.warmup_rounds must be 0, because each round trains the heads first"

    def train(self, site: SiteRound) -> Update:
        """Train the heads, then the backbone."""
        heads = site.train(part="heads", steps=self.head_steps)
        result = heads.followed_by(site.train(part="backbone"))
        return Update(site.uploaded_arrays(), site.local_memory(result), result)
