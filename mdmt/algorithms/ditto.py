"""Ditto (Li et al. 2021): a site keeps a model of its own, close to the averaged backbone."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import Field

from mdmt.algorithms.base import Update, algorithms, needs_local_heads
from mdmt.algorithms.fedavg import FedAvg

if TYPE_CHECKING:
    from mdmt.config import FederationConfig
    from mdmt.site_round import SiteRound

_AVERAGED = "averaged."
"""Prefix in the memory of a site of what belongs to the averaged model: its heads and moments."""


@algorithms.register("ditto")
class Ditto(FedAvg):
    """FedAvg, and beside it a personal model of each site, which the site uses.

    Algorithm 1 of Li et al. 2021 ("Ditto: Fair and Robust Federated Learning Through
    Personalization", ICML), with FedAvg as the global method. In each round a site trains

    - θ_s from the received backbone θ_r, with heads that it keeps for this purpose, and sends θ_s;
    - its personal model v_s, with heads of its own, from the v_s of its last round on
      L(v) + μ/2·‖v - θ_r‖². The term covers the backbone. μ is λ in the paper; here λ is the weight
      of a task. The first v_s is the first received backbone.

    The site evaluates, releases and predicts with v_s, which never leaves it in a round. A large μ
    gives v_s ≈ θ_r; with μ → 0 the site trains alone.

    A round costs twice the steps of FedAvg, and the memory of a site has a whole model. Messages
    are those of FedAvg. Moments of v_s are kept for its heads only.
    """

    name: str = "ditto"
    mu: Annotated[float, Field(gt=0)] = 0.1
    """μ of the proximal term of the personal model."""

    backbone: ClassVar[Literal["common", "server", "own"]] = "own"

    def round_steps(self, steps: int) -> int:
        """Count both models."""
        return 2 * steps

    def conflicts(self, config: FederationConfig) -> Iterator[str]:
        """Each site needs its own heads, and it trains two models."""
        return needs_local_heads(config)

    def train(self, site: SiteRound) -> Update:
        """Train θ_s, then v_s."""
        start = len(_AVERAGED)
        memory = {n[start:]: v for n, v in site.memory.items() if n.startswith(_AVERAGED)}
        averaged = replace(site, memory=memory)
        averaged.load()
        first = averaged.train()
        arrays = averaged.uploaded_arrays(copy=True)
        kept = {_AVERAGED + name: v for name, v in averaged.local_memory(first).items()}
        site.load()
        second = site.train(proximal_mu=self.mu, anchor=site.received())
        kept |= site.local_memory(second, whole=True)
        return Update(arrays, kept, first.followed_by(second))
