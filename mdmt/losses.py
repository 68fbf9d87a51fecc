"""The indicator-masked loss of one task, and the objective over tasks."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from mdmt.tasks import Task

__all__ = ["combine", "masked_mean"]


def masked_mean(
    task: Task, outputs: Tensor, targets: Tensor, class_weights: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Mean loss of one task over the labels that are present.

    ℓ_t = Σ m·e / Σ m, where m = 1 for a present label and e is `Task.elementwise_loss`. Dividing by
    the labelled count, not by the batch, keeps a task's scale whatever else is in the batch (the
    paper's indicator, which its published code divides by the batch).

    Parameters
    ----------
    task : Task
    outputs : Tensor, float, (N, n_outputs)
    targets : Tensor, float, (N, width)
        NaN where a label is missing.
    class_weights : Tensor, float, optional
        As `Task.balanced_weights` gives them; they multiply e and leave the count alone.

    Returns
    -------
    loss : Tensor, scalar, dtype of `outputs`
        Exactly 0, with zero gradient, where nothing is labelled.
    count : Tensor, scalar, same dtype
        Σ m, the number of labels present.
    """
    present = torch.isfinite(targets)
    # A NaN must not enter the loss at all: masking its value afterwards leaves a NaN gradient.
    losses = task.elementwise_loss(outputs, torch.where(present, targets, 0.0), class_weights)
    count = present.sum().to(losses.dtype)
    return torch.where(present, losses, 0.0).sum() / count.clamp(min=1), count


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
