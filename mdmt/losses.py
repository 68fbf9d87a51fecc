"""The objective: a weighted sum of the indicator-masked losses of the tasks (`Task.loss`)."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from mdmt.tasks import Task


def combine(losses: Mapping[str, Tensor], coefficients: Mapping[str, float]) -> Tensor:
    """Return the objective L = Σ_t c_t ℓ_t over the tasks in `losses`.

    Parameters
    ----------
    losses : mapping of str to Tensor
        Scalar ℓ_t of each task; at least one.
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
    """The objective L = Σ_t c_t ℓ_t of each batch, and the mean of each ℓ_t over all batches.

    Sums stay on the device until `means` is called, so that no step waits for the GPU.

    Parameters
    ----------
    spaces : mapping of str to Task
    coefficients : mapping of str to float
        c_t of each task.
    class_weights : mapping of str to Tensor
        By task, if the task has class weights; see `Task.loss`.
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
        """Return L of a batch. `targets` has the tasks with a label in the batch."""
        losses = {}
        for task, target in targets.items():
            output = outputs[task].to(target.dtype)  # losses need at least single precision
            weights = self.class_weights.get(task)
            losses[task], count = self.spaces[task].loss(output, target, weights)
            seen = torch.stack((losses[task].detach() * count, count))
            self._sums[task] = self._sums.get(task, 0) + seen
        return combine(losses, self.coefficients)

    def means(self) -> dict[str, float]:
        """Return ℓ_t by task over all labelled outputs so far, without tasks that had none."""
        sums = {task: total.tolist() for task, total in self._sums.items()}
        return {task: value / count for task, (value, count) in sums.items() if count}
