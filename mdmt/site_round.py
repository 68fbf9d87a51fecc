"""The model and the data of one round at one site, for an algorithm."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from mdmt.blob import Arrays
from mdmt.config import AggregationConfig
from mdmt.models import MDMTModel, Part, get_arrays, local_tensors, set_arrays
from mdmt.training import TrainingResult

MOMENTS = "moments."
"""Prefix of optimiser moments in the memory of a site."""
OF_MODEL = ("backbone.", "heads.")
"""Prefixes of the tensors in the memory of a site that belong to its model for use."""


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
        kept = {k: v for k, v in self.memory.items() if k.startswith(OF_MODEL)}
        initial = {k: v for k, v in self.initial.items() if k not in self.incoming}
        set_arrays(self.model, kept or initial)

    def received(self) -> dict[str, Tensor]:
        """Return copies of the incoming arrays, as an anchor for `train`."""
        return {name: torch.tensor(array) for name, array in self.incoming.items()}

    def train(
        self,
        *,
        proximal_mu: float = 0.0,
        anchor: Mapping[str, Tensor] | None = None,
        part: Part = "all",
        steps: int | None = None,
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
        steps : int, optional
            Number of optimiser steps. The default is that of the configuration.
        """
        prefix, uploaded = "" if part == "all" else f"{part}.", set(self.uploaded)
        names = [name for name, _ in self.model.named_parameters() if name.startswith(prefix)]
        result = self.loop(
            self.model,
            proximal_mu=proximal_mu,
            anchor=anchor,
            part=part,
            steps=steps,
            start_moments={
                name.removeprefix(MOMENTS): value
                for name, value in self.memory.items()
                if name.startswith(MOMENTS + prefix)
            },
            # After averaging, the moments of averaged parameters have no meaning.
            keep_moments=[name for name in names if name not in uploaded],
        )
        self.model.zero_grad()  # free the memory of the gradients until the next round
        return result

    def uploaded_arrays(self, *, copy: bool = False) -> Arrays:
        """Return the arrays for the server. Without a copy, later training changes them."""
        return get_arrays(self.model, self.uploaded, copy=copy)

    def local_memory(self, result: TrainingResult, *, whole: bool = False) -> dict[str, Tensor]:
        """Return copies of the tensors that the site keeps: heads, local norms, moments.

        With `whole` it keeps all tensors of the model.
        """
        moments = {MOMENTS + name: value for name, value in result.moments.items()}
        return local_tensors(self.model, self.aggregation, whole=whole) | moments
