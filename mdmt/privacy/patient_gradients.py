"""The sum of clipped gradients of patients. All images of a patient are one record."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

from mdmt.models import MDMTModel
from mdmt.tasks import Task

_GRADIENT_BYTES = 2**28
"""Largest size of the gradients of single patients that are in memory at once."""


class PatientGradients:
    """Gradients of the record loss, patient by patient.

    The record loss of a patient is Σ_t c_t Σ_{images, outputs} m·e / K_t: m = 1 for a present
    label, e is the elementwise loss of task t and K_t the number of its target columns. It is not
    divided by a number of labels, because a record must not change the loss of other records.

    Parameters
    ----------
    model : MDMTModel
        In training mode.
    spaces : mapping of str to Task
    coefficients : mapping of str to float
        c_t of each trained task.
    clip : float
        C: the largest norm of the gradient of a patient, over all trained parameters together.
    images : int
        Largest number of images at once. A patient with more images is computed alone.
    """

    def __init__(
        self,
        model: MDMTModel,
        spaces: Mapping[str, Task],
        coefficients: Mapping[str, float],
        *,
        clip: float,
        images: int,
    ) -> None:
        self._model, self._spaces, self._coefficients = model, spaces, coefficients
        self._clip, self._images = clip, images
        self.parameters = trained_parameters(model, coefficients)
        size = sum(p.numel() * p.element_size() for p in self.parameters.values())
        self._patients = max(1, _GRADIENT_BYTES // size)
        # Each patient has its own dropout, as each image has in plain training.
        self._gradients = vmap(grad(self._loss), in_dims=(None, 0, 0), randomness="different")

    def clipped_sum(
        self, images: Tensor, targets: Mapping[str, Tensor], sizes: NDArray[np.intp]
    ) -> dict[str, Tensor]:
        """Return Σ_i g_i · min(1, C / ‖g_i‖) over patients i.

        A patient whose gradient is not finite adds 0. If one patient is added or removed, the sum
        changes by a norm of at most C, up to the rounding of float32.

        Parameters
        ----------
        images : Tensor, float, (N, C, H, W)
            Patient by patient.
        targets : mapping of str to Tensor, float, (N, width)
            NaN is a missing label.
        sizes : ndarray of int
            Number of images of each patient, at least 1; the sum is N. It can be empty.

        Returns
        -------
        dict of str to Tensor, float64
            By the names of `parameters`.
        """
        values = {name: parameter.detach() for name, parameter in self.parameters.items()}
        total = {n: torch.zeros_like(v, dtype=torch.float64) for n, v in values.items()}
        for rows in self._parts(sizes):
            index = torch.from_numpy(rows).to(images.device)
            gradients = self._gradients(
                values, images[index], {task: target[index] for task, target in targets.items()}
            )
            for name, clipped in self._clipped(gradients).items():
                total[name] += clipped
        return total

    def _loss(
        self, values: dict[str, Tensor], images: Tensor, targets: dict[str, Tensor]
    ) -> Tensor:
        """Return the record loss of one patient: images (M, C, H, W), targets (M, width)."""
        outputs = functional_call(self._model, values, (images, tuple(targets)))
        total = images.new_zeros(())
        for task, target in targets.items():
            present = torch.isfinite(target)
            known = torch.where(present, target, 0.0)
            losses = self._spaces[task].elementwise_loss(outputs[task], known)
            mean = torch.where(present, losses, 0.0).sum() / target.shape[1]
            total = total + self._coefficients[task] * mean
        return total

    def _clipped(self, gradients: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Clip gradients of patients, (P, ...), and add them."""
        norms = torch.stack(
            [
                torch.linalg.vector_norm(g.flatten(1), dim=1, dtype=torch.float64)
                for g in gradients.values()
            ]
        ).norm(dim=0)
        finite = torch.isfinite(norms)
        factors = torch.where(finite, self._clip / norms.clamp(min=self._clip), 0.0)
        if not finite.all():
            shapes = {n: (-1, *[1] * (g.ndim - 1)) for n, g in gradients.items()}
            gradients = {
                n: torch.where(finite.view(shapes[n]), g, 0.0) for n, g in gradients.items()
            }
        return {n: torch.tensordot(factors.to(g), g, 1) for n, g in gradients.items()}

    def _parts(self, sizes: NDArray[np.intp]) -> Iterator[NDArray[np.intp]]:
        """Yield rows (P, M) of the images of P patients with M images each."""
        starts = np.cumsum(sizes) - sizes
        for size in np.unique(sizes):
            first = starts[sizes == size]
            at_once = min(self._patients, max(1, self._images // int(size)))
            for start in range(0, len(first), at_once):
                yield first[start : start + at_once, None] + np.arange(size)


def trained_parameters(model: MDMTModel, tasks: Mapping[str, float]) -> dict[str, nn.Parameter]:
    """Return the parameters that training on `tasks` changes: of the backbone and their heads."""
    heads = tuple(f"heads.{task}." for task in tasks)
    return {
        name: parameter
        for name, parameter in model.named_parameters()
        if parameter.requires_grad and name.startswith(("backbone.", *heads))
    }
