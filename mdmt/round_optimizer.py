"""The optimiser steps of one round, which all training loops share."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TypedDict

import torch
from torch import Tensor, nn

from mdmt.config import TrainingConfig
from mdmt.models import MDMTModel, Part
from mdmt.optimisers import build_optimizer, moments, set_rates


class RoundOptions(TypedDict, total=False):
    """What differs between the rounds of a run.

    Attributes
    ----------
    round_number : int
        Number of the round in the run, from 1, for the scheduler.
    lr_factor : float
        Factor on the rate from the plateau scheduler of the server.
    proximal_mu : float
        μ of the proximal term μ/2·‖θ - θ_0‖² over the backbone (Li et al. 2018, eq. 2).
    anchor : mapping of str to Tensor, optional
        θ_0 by parameter name. The default is the values that the model has now.
    start_moments : mapping of str to Tensor, optional
        Moments from an earlier `TrainingResult`, to continue from.
    rates : mapping of str to float, optional
        Factors on the rate of ``backbone`` and of ``heads.<task>`` (property P2 needs them).
    part : {"all", "backbone", "heads"}
        The part of the model that trains. In a warm-up round only the heads train.
    steps : int, optional
        Number of steps. The default is `training.local_steps` or `training.local_epochs`.
    """

    round_number: int
    lr_factor: float
    proximal_mu: float
    anchor: Mapping[str, Tensor] | None
    start_moments: Mapping[str, Tensor] | None
    rates: Mapping[str, float] | None
    part: Part
    steps: int | None


def trained_part(training: TrainingConfig, options: RoundOptions) -> Part:
    """Return the part of the model that trains: in a warm-up round always the heads.

    The heads then fit the features of the initial backbone, so that their first gradients do not
    damage it (LP-FT, Kumar et al. 2022).
    """
    warm_up = options.get("round_number", 1) <= training.warmup_rounds
    return "heads" if warm_up else options.get("part", "all")


class RoundOptimizer:
    """The optimiser of one round.

    Parameters
    ----------
    model : MDMTModel
        In training mode: frozen parameters get no steps.
    training : TrainingConfig
    steps : int
        Number of steps of the round.
    options : RoundOptions
    """

    def __init__(
        self, model: MDMTModel, training: TrainingConfig, steps: int, options: RoundOptions
    ) -> None:
        self._model, self._training, self._steps = model, training, steps
        self._round = options.get("round_number", 1)
        self._lr_factor = options.get("lr_factor", 1.0)
        self._mu = options.get("proximal_mu", 0.0)
        self._pulled = _pulled(model, options.get("anchor")) if self._mu else []
        device = next(model.parameters()).device
        self._scaler = torch.amp.GradScaler(device.type, enabled=training.amp == "fp16")
        self._optimizer = build_optimizer(
            model, training, options.get("rates") or {}, options.get("start_moments") or {}
        )

    def backward(self, loss: Tensor) -> None:
        """Set the gradients to those of a scalar loss."""
        self._optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(self._scaler.scale(loss))
        self._scaler.unscale_(self._optimizer)

    def step(self, number: int) -> None:
        """Change the model by the gradients of step `number` of the round, from 0."""
        training = self._training
        for parameter, start in self._pulled:
            if parameter.grad is not None:  # add μ(θ - θ_0), the gradient of the proximal term
                parameter.grad.add_(parameter.detach() - start, alpha=self._mu)
        if training.clip_norm is not None:
            trained = [p for p in self._model.parameters() if p.requires_grad]
            nn.utils.clip_grad_norm_(trained, training.clip_norm)
        progress = self._round - 1 + number / self._steps
        set_rates(self._optimizer, training, self._lr_factor, progress)
        self._scaler.step(self._optimizer)
        self._scaler.update()

    def moments(self, names: Iterable[str]) -> dict[str, Tensor]:
        """Return the moments of the parameters `names`, for the next round."""
        return moments(self._optimizer, self._model, names)


def _pulled(
    model: MDMTModel, anchor: Mapping[str, Tensor] | None
) -> list[tuple[nn.Parameter, Tensor]]:
    """Return the trainable parameters of the backbone, each with its value in θ_0."""
    return [
        (p, p.detach().clone() if anchor is None else anchor[f"backbone.{name}"].to(p))
        for name, p in model.backbone.named_parameters()
        if p.requires_grad
    ]
