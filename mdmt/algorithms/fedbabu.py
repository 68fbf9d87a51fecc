"""FedBABU (Oh et al. 2022): only the backbone is trained; the heads are fitted at the end."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from mdmt.algorithms.base import Update, algorithms, needs_local_heads
from mdmt.algorithms.fedavg import FedAvg

if TYPE_CHECKING:
    from mdmt.config import FederationConfig
    from mdmt.site_round import SiteRound


@algorithms.register("fedbabu")
class FedBABU(FedAvg):
    """The heads keep their initial values while the backbone is trained and averaged.

    Oh et al. 2022 ("FedBABU: Toward Enhanced Representation for Federated Image Classification",
    ICLR). All sites with a task have the same initial head of it, so that they train the backbone
    towards the same classifier. After the last round each site fits heads on the final backbone:
    `training.refit_heads` must be true. Validation metrics of a round are those of the initial
    heads, which the rounds are compared by.

    A round costs what a round of FedAvg costs.
    """

    name: str = "fedbabu"

    def conflicts(self, config: FederationConfig) -> Iterator[str]:
        """Each site needs its own heads, fitted after the last round and not before."""
        yield from needs_local_heads(config)
        if not config.training.refit_heads:
            yield "training.refit_heads must be true, because no round trains the heads"
        if config.training.warmup_rounds:
            yield "training.warmup_rounds must be 0, because no round trains the heads"

    def train(self, site: SiteRound) -> Update:
        """Train the backbone."""
        result = site.train(part="backbone")
        return Update(site.uploaded_arrays(), site.local_memory(result), result)
