"""The objective over tasks, a weighted sum of their indicator-masked losses (`Task.loss`)."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from mdmt.tasks import Task

__all__ = ["Objective", "combine"]


def combine(losses: Mapping[str, Tensor], coefficients: Mapping[str, float]) -> Tensor:
    """Objective L = Σ_t c_t ℓ_t over the tasks in `losses`.

    Parameters
    ----------
    losses : mapping of str to Tensor
        Scalar ℓ_t of every task, at least one.
    coefficients : mapping of str to float
        c_t; λ_t in the pooled objective.

    Returns
    -------
    Tensor, scalar

    Raises
    ------
    KeyError
        A loss has no coefficient.
    """
    return torch.stack([coefficients[task] * loss for task, loss in losses.items()]).sum()


class Objective:
    """L = Σ_t c_t ℓ_t of one batch after another, and the mean of every ℓ_t over all of them.

    Sums stay on the device until `means` asks for them: no step waits for a GPU.

    Parameters
    ----------
    spaces : mapping of str to Task
    coefficients : mapping of str to float
        c_t of the same tasks.
    class_weights : mapping of str to Tensor
        Of the tasks that have some; see `Task.loss`.
    """

    def __init__(
        self,
        spaces: Mapping[str, Task],
        coefficients: Mapping[str, float],
        class_weights: Mapping[str, Tensor],
    ) -> None:
        self.spaces = spaces
        self.coefficients = coefficients
        self.class_weights = class_weights
        self._sums: dict[str, Tensor] = {}

    def __call__(self, outputs: Mapping[str, Tensor], targets: Mapping[str, Tensor]) -> Tensor:
        """L of a batch, from outputs and targets of the tasks that are labelled in it."""
        losses = {}
        for task, target in targets.items():
            output = outputs[task].to(target.dtype)  # losses are not for half precision
            weights = self.class_weights.get(task)
            losses[task], count = self.spaces[task].loss(output, target, weights)
            seen = torch.stack((losses[task].detach() * count, count))
            self._sums[task] = self._sums.get(task, 0) + seen
        return combine(losses, self.coefficients)

    def means(self) -> dict[str, float]:
        """ℓ_t over every labelled output that was seen, by task; without tasks that had none."""
        sums = {task: total.tolist() for task, total in self._sums.items()}
        return {task: value / count for task, (value, count) in sums.items() if count}
