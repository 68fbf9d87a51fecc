"""Fit a linear head on frozen features. Cross-validation by patient chooses L2 and calibrates."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mdmt.tasks import Task

L2 = (100.0, 30.0, 10.0, 3.0, 1.0, 0.3, 0.1, 0.03)
"""Values of λ, strongest first. Features are standardised, so one range fits all."""
FOLDS = 5
_FLOOR = 0.1
"""Smallest variance of a feature, as a multiple of the mean variance. A feature that hardly varies
in a fold would otherwise be huge in an image of another fold."""
_STEPS = 100
"""Largest number of steps of L-BFGS. Most fits need fewer than 40."""


class LinearHead(NamedTuple):
    """Outputs = features · weightᵀ + bias."""

    weight: Tensor
    """Float64, (K, F)."""
    bias: Tensor
    """Float64, (K,)."""

    def __call__(self, features: Tensor) -> Tensor:
        """Return the outputs, float64 (N, K), for features (N, F)."""
        return features.double() @ self.weight.T + self.bias


def fit_linear_head(
    task: Task,
    features: Tensor,
    targets: Tensor,
    patients: NDArray[np.str_],
    *,
    seed: int,
    class_weights: Tensor | None = None,
) -> LinearHead:
    """Fit a linear head with the loss of its task, and calibrate it.

    Minimises ℓ(Z Wᵀ + b, y) + λ/2·‖W‖², where Z are standardised features and ℓ is the loss of the
    task. The problem is convex for all kinds of MDMT. λ is the value of `L2` with the smallest loss
    on held-out patients. On these held-out outputs o, a temperature τ and a bias β are fitted that
    minimise ℓ(τ·o + β, y) (Platt 1999, Guo et al. 2017). They become part of the head.

    Parameters
    ----------
    task : Task
    features : Tensor, float, (N, F)
    targets : Tensor, float, (N, width)
        NaN is a missing label. Images without a label are not used.
    patients : ndarray of str, (N,)
        The images of a patient are in the same fold.
    seed : int
        Deals the folds.
    class_weights : Tensor, optional
        See `Task.loss`.

    Returns
    -------
    LinearHead
        With one patient only, λ is the strongest value and nothing is calibrated.

    Raises
    ------
    ValueError
        No image has a label.
    """
    labelled = torch.isfinite(targets).any(dim=1)
    if not labelled.any():
        raise ValueError("no image has a label")
    z, y = features[labelled].double(), targets[labelled].double()
    weights = None if class_weights is None else class_weights.double()
    folds = list(_folds(task, y, patients[labelled.numpy()], seed))
    if not folds:
        return _fit(task, z, y, weights, L2[0])
    held_out = [torch.empty(len(y), task.n_outputs, dtype=torch.float64) for _ in L2]
    for fitted, held in folds:
        for outputs, head in zip(held_out, _path(task, z[fitted], y[fitted], weights), strict=True):
            outputs[held] = head(z[held])
    losses = [task.loss(outputs, y, weights)[0].item() for outputs in held_out]
    best = int(np.argmin(losses))
    head = _fit(task, z, y, weights, L2[best])
    temperature, bias = _calibration(task, held_out[best], y, weights)
    return LinearHead(temperature * head.weight, temperature * head.bias + bias)


def _folds(
    task: Task, targets: Tensor, patients: NDArray[np.str_], seed: int
) -> Iterator[tuple[NDArray[np.intp], NDArray[np.intp]]]:
    """Yield the fitted and the held-out images of each fold, stratified by exclusive classes."""
    from sklearn.model_selection import GroupKFold, StratifiedGroupKFold

    number = min(FOLDS, len(np.unique(patients)))
    if number < 2:
        return
    images = np.empty(len(patients))
    classes = targets[:, 0].numpy() if task.exclusive else np.zeros(len(patients))
    if np.unique(classes, return_counts=True)[1].min() >= number:
        dealer = StratifiedGroupKFold(number, shuffle=True, random_state=seed % 2**32)
        yield from dealer.split(images, classes, patients)
    else:  # a class with fewer images than folds cannot be in each
        plain = GroupKFold(number, shuffle=True, random_state=seed % 2**32)
        yield from plain.split(images, classes, patients)


def _path(
    task: Task, features: Tensor, targets: Tensor, class_weights: Tensor | None
) -> Iterator[LinearHead]:
    """Yield the head of each value of `L2`; each fit starts from the one before."""
    rotated, back = _standardise(features)
    start = torch.zeros(task.n_outputs, rotated.shape[1] + 1, dtype=torch.float64)
    for strength in L2:
        start = _minimise(task, rotated, targets, class_weights, strength, start)
        yield back(start)


def _fit(
    task: Task, features: Tensor, targets: Tensor, class_weights: Tensor | None, strength: float
) -> LinearHead:
    rotated, back = _standardise(features)
    start = torch.zeros(task.n_outputs, rotated.shape[1] + 1, dtype=torch.float64)
    return back(_minimise(task, rotated, targets, class_weights, strength, start))


class _Back(NamedTuple):
    """Converts parameters (K, R + 1) for rotated, standardised features to a head."""

    mean: Tensor
    scale: Tensor
    rotation: Tensor

    def __call__(self, parameters: Tensor) -> LinearHead:
        weight = parameters[:, :-1] @ self.rotation.T / self.scale
        return LinearHead(weight, parameters[:, -1] - weight @ self.mean)


def _standardise(features: Tensor) -> tuple[Tensor, _Back]:
    """Standardise features (N, F), and rotate them to their R ≤ min(N, F) dimensions.

    The solution lies in the space of the rows, and a rotation keeps ‖W‖. So the smaller problem has
    the same solution.
    """
    mean, variance = features.mean(dim=0), features.var(dim=0, correction=0)
    scale = torch.maximum(variance, _FLOOR * variance.mean()).sqrt()
    scale = torch.where(scale > 0, scale, 1.0)
    standardised = (features - mean) / scale
    if len(features) >= features.shape[1]:
        rotation = torch.eye(features.shape[1], dtype=torch.float64)
        return standardised, _Back(mean, scale, rotation)
    rotation = torch.linalg.qr(standardised.T)[0]
    return standardised @ rotation, _Back(mean, scale, rotation)


def _minimise(
    task: Task,
    features: Tensor,
    targets: Tensor,
    class_weights: Tensor | None,
    strength: float,
    start: Tensor,
) -> Tensor:
    """Return the weights and, in the last column, the bias, (K, R + 1)."""

    def value(parameters: Tensor) -> Tensor:
        outputs = features @ parameters[:, :-1].T + parameters[:, -1]
        loss = task.loss(outputs, targets, class_weights)[0]
        return loss + strength / 2 * parameters[:, :-1].square().sum()

    return _lbfgs(value, start)


def _calibration(
    task: Task, outputs: Tensor, targets: Tensor, class_weights: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Return the temperature τ > 0 and the bias β, (K,), for held-out outputs."""

    def value(parameters: Tensor) -> Tensor:
        scaled = parameters[0].exp() * outputs + parameters[1:]
        return task.loss(scaled, targets, class_weights)[0]

    fitted = _lbfgs(value, torch.zeros(1 + outputs.shape[1], dtype=torch.float64))
    return fitted[0].exp(), fitted[1:]


def _lbfgs(value: Callable[[Tensor], Tensor], start: Tensor) -> Tensor:
    """Return the parameters that minimise a convex function."""
    parameters = start.clone().requires_grad_()
    optimizer = torch.optim.LBFGS(
        [parameters],
        max_iter=_STEPS,
        tolerance_grad=1e-6,
        tolerance_change=1e-9,
        line_search_fn="strong_wolfe",
    )

    def closure() -> float:
        optimizer.zero_grad()
        loss = value(parameters)
        loss.backward()  # type: ignore[no-untyped-call]
        return loss.item()

    with torch.inference_mode(False), torch.enable_grad():
        optimizer.step(closure)  # type: ignore[no-untyped-call]
    return parameters.detach()
