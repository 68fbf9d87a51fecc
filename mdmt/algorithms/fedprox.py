"""FedProx (Li et al. 2018): sites stay close to the backbone that they received."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from mdmt.algorithms.base import Update, algorithms
from mdmt.algorithms.fedavg import FedAvg

if TYPE_CHECKING:
    from mdmt.site_round import SiteRound


@algorithms.register("fedprox")
class FedProx(FedAvg):
    """FedAvg with the term μ/2·‖θ_s - θ_r‖² in the objective of every site (eq. 2)."""

    name: str = "fedprox"
    mu: Annotated[float, Field(gt=0)] = 0.01

    def train(self, site: SiteRound) -> Update:
        """Train with the proximal term."""
        result = site.train(proximal_mu=self.mu)
        return Update(site.uploaded_arrays(), site.local_memory(result), result)
