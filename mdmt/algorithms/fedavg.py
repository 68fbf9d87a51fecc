"""Federated averaging (McMahan et al. 2017): the weighted mean of the trained arrays."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mdmt.algorithms.base import Algorithm, State, Update, algorithms
from mdmt.blob import Arrays

if TYPE_CHECKING:
    from mdmt.site_round import SiteRound


@algorithms.register("fedavg")
class FedAvg(Algorithm):
    """Each site trains the backbone and its own heads; the server averages the backbone.

    Optimiser moments of averaged arrays start from zero in every round. A site keeps the moments of
    its own heads.
    """

    name: str = "fedavg"

    def load(self, site: SiteRound) -> None:
        """Load the received arrays and the site's own heads into the model."""
        site.load()

    def train(self, site: SiteRound) -> Update:
        """Train the whole model."""
        result = site.train()
        return Update(site.uploaded_arrays(), site.local_memory(result), result)

    def combine(self, state: State, mean: Arrays) -> State:
        """Set θ_{r+1} = Σ_s w_s θ_s."""
        return state.updated(mean)
