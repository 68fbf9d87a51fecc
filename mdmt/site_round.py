"""The model and the data of one round at one site, for an algorithm."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from torch import Tensor

from mdmt.blob import Arrays
from mdmt.config import AggregationConfig
from mdmt.models import MDMTModel, Part, get_arrays, local_tensors, set_arrays
from mdmt.training import TrainingResult

MOMENTS = "moments."
"""Prefix of optimiser moments in the memory of a site."""


@dataclass(frozen=True)
class SiteRound:
    """The model of a site, and the values that a round can start from.

    Attributes
    ----------
    model : MDMTModel
        On the device of the site. Its values are those of an earlier use.
    aggregation : AggregationConfig
        Decides which parts of the model are local.
    incoming : mapping of str to ndarray
        The arrays that the site received in this round.
    memory : mapping of str to Tensor
        Tensors that the site kept after its last round; empty before the first round.
    initial : mapping of str to Tensor
        Initial values of the heads, equal at all sites with these heads.
    uploaded : tuple of str
        Names of the arrays that are sent back to the server.
    loop : callable
        `mdmt.training.train` with the data of the site and the coefficients, rate and seed of the
        round.
    """

    model: MDMTModel
    aggregation: AggregationConfig
    incoming: Arrays
    memory: Mapping[str, Tensor]
    initial: Mapping[str, Tensor]
    uploaded: tuple[str, ...]
    loop: Callable[..., TrainingResult]

    def load(self) -> None:
        """Load the incoming arrays and the local tensors of the site into the model."""
        set_arrays(self.model, self.incoming)
        kept = {k: v for k, v in self.memory.items() if not k.startswith(MOMENTS)}
        initial = {k: v for k, v in self.initial.items() if k not in self.incoming}
        set_arrays(self.model, kept or initial)

    def train(
        self,
        *,
        proximal_mu: float = 0.0,
        anchor: Mapping[str, Tensor] | None = None,
        part: Part = "all",
    ) -> TrainingResult:
        """Train the model in place, from its current values.

        Parameters
        ----------
        proximal_mu : float
            μ of the proximal term μ/2·‖θ - anchor‖² over the backbone.
        anchor : mapping of str to Tensor, optional
            Values by parameter name. The default is the current values.
        part : {"all", "backbone", "heads"}
            The part of the model that trains. In a warm-up round only the heads train.
        """
        uploaded = set(self.uploaded)
        result = self.loop(
            self.model,
            proximal_mu=proximal_mu,
            anchor=anchor,
            part=part,
            start_moments={
                name.removeprefix(MOMENTS): value
                for name, value in self.memory.items()
                if name.startswith(MOMENTS)
            },
            # After averaging, the moments of averaged parameters have no meaning.
            keep_moments=[n for n, _ in self.model.named_parameters() if n not in uploaded],
        )
        self.model.zero_grad()  # free the memory of the gradients until the next round
        return result

    def uploaded_arrays(self) -> Arrays:
        """Return the arrays for the server. Later training changes them in place."""
        return get_arrays(self.model, self.uploaded, copy=False)

    def local_memory(self, result: TrainingResult) -> dict[str, Tensor]:
        """Return copies of the tensors that the site keeps: heads, local norms, moments."""
        moments = {MOMENTS + name: value for name, value in result.moments.items()}
        return local_tensors(self.model, self.aggregation) | moments
