"""What an algorithm works with in one round at one site."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from torch import Tensor

from mdmt.blob import Arrays
from mdmt.config import AggregationConfig
from mdmt.models import MDMTModel, get_arrays, load_local, local_tensors, set_arrays
from mdmt.training import TrainingResult

__all__ = ["MOMENTS", "SiteRound"]

MOMENTS = "moments."
"""Prefix of an optimiser's moments in a site's memory."""


@dataclass(frozen=True)
class SiteRound:
    """A site's model, and the values it may start from.

    Attributes
    ----------
    model : MDMTModel
        On the site's device. It still holds the values of some earlier use.
    aggregation : AggregationConfig
        Says which parts of the model are local.
    incoming : mapping of str to ndarray
        The arrays received in this round.
    memory : mapping of str to Tensor
        What the site kept of its last round; empty before the first.
    initial : mapping of str to Tensor
        Initial values of the site's heads, the same for all sites that have them.
    uploaded : tuple of str
        Names of the arrays that go back to the server.
    loop : callable
        `mdmt.training.train` on this site's data, with this round's coefficients, rate and seed.
    """

    model: MDMTModel
    aggregation: AggregationConfig
    incoming: Arrays
    memory: Mapping[str, Tensor]
    initial: Mapping[str, Tensor]
    uploaded: tuple[str, ...]
    loop: Callable[..., TrainingResult]

    def load(self) -> None:
        """Put the incoming arrays and the site's local tensors into the model."""
        set_arrays(self.model, self.incoming)
        kept = {k: v for k, v in self.memory.items() if not k.startswith(MOMENTS)}
        initial = {k: v for k, v in self.initial.items() if k not in self.incoming}
        load_local(self.model, kept or initial)

    def train(
        self, *, proximal_mu: float = 0.0, anchor: Mapping[str, Tensor] | None = None
    ) -> TrainingResult:
        """Train the model in place from the values that it holds.

        Parameters
        ----------
        proximal_mu : float
            μ of the proximal term μ/2·‖θ - anchor‖² over the backbone.
        anchor : mapping of str to Tensor, optional
            Values by the names of the model's parameters; those it holds now unless given.
        """
        uploaded = set(self.uploaded)
        result = self.loop(
            self.model,
            proximal_mu=proximal_mu,
            anchor=anchor,
            start_moments={
                name.removeprefix(MOMENTS): value
                for name, value in self.memory.items()
                if name.startswith(MOMENTS)
            },
            # Moments of averaged parameters mean nothing after averaging.
            keep_moments=[n for n, _ in self.model.named_parameters() if n not in uploaded],
        )
        self.model.zero_grad()  # the model waits for the next round; its gradients need no memory
        return result

    def uploaded_arrays(self) -> Arrays:
        """Arrays of the model that go back to the server; later training changes them."""
        return get_arrays(self.model, self.uploaded, copy=False)

    def local_memory(self, result: TrainingResult) -> dict[str, Tensor]:
        """Copy what stays at the site: its heads, local normalisation layers, their moments."""
        moments = {MOMENTS + name: value for name, value in result.moments.items()}
        return local_tensors(self.model, self.aggregation) | moments
