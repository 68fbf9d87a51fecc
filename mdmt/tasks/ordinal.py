"""Ordered levels."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

import numpy as np
from pydantic import Field

from mdmt.tasks.base import FloatArray, task_kinds
from mdmt.tasks.families import Numbers
from mdmt.tasks.statistics import mean_defined

if TYPE_CHECKING:
    from torch import Tensor


@task_kinds.register("ordinal")
class Ordinal(Numbers):
    """K outputs with levels 0 … C-1 each, such as six lung zones scored 0 to 3.

    Every output has its own softmax over the levels (the paper's region heads); a prediction is
    the expected level, in [0, C-1].
    """

    kind: Literal["ordinal"] = "ordinal"
    levels: Annotated[int, Field(ge=2)]
    """C: how many levels there are."""

    discrete: ClassVar[bool] = True

    @property
    def bounds(self) -> tuple[float, float]:
        """Lowest and highest level."""
        return 0.0, float(self.levels - 1)

    @property
    def n_outputs(self) -> int:
        """A logit per output and level, output by output."""
        return len(self.outputs) * self.levels

    def elementwise_loss(
        self, outputs: Tensor, targets: Tensor, class_weights: Tensor | None = None
    ) -> Tensor:
        """Cross-entropy of each output over its levels; see `Task`."""
        from torch.nn.functional import cross_entropy

        logits = outputs.reshape(-1, len(self.outputs), self.levels).transpose(1, 2)
        return cross_entropy(logits, targets.long(), reduction="none")

    def decode(self, outputs: FloatArray) -> FloatArray:
        """Compute expected levels (N, K), float64."""
        from scipy.special import softmax

        logits = np.asarray(outputs, dtype=np.float64)
        logits = logits.reshape(len(logits), len(self.outputs), self.levels)
        return np.asarray(softmax(logits, axis=2) @ np.arange(self.levels, dtype=np.float64))

    def metrics(self, predictions: FloatArray, targets: FloatArray) -> dict[str, float]:
        """`statistics.error_metrics` of expected levels, and agreement; see `Task.metrics`.

        ``kappa_<output>`` is Cohen's kappa with quadratic weights after rounding (halves up),
        ``kappa`` its mean over the outputs where it is defined.
        """
        result, present = super().metrics(predictions, targets), np.isfinite(targets).T
        kappas = [
            self._kappa(predictions[rows, k], targets[rows, k]) for k, rows in enumerate(present)
        ]
        result["kappa"] = mean_defined(kappas)
        names = (f"kappa_{output}" for output in self.outputs)
        return result | dict(zip(names, kappas, strict=True))

    def _kappa(self, predictions: FloatArray, targets: FloatArray) -> float:
        from sklearn.metrics import cohen_kappa_score

        rounded = np.floor(predictions + 0.5).astype(int)
        truth = targets.astype(int)
        if len(np.union1d(rounded, truth)) < 2:  # no disagreement is even possible: 0/0
            return math.nan
        levels = list(range(self.levels))
        return float(cohen_kappa_score(truth, rounded, labels=levels, weights="quadratic"))

    def histogram(self, targets: FloatArray) -> dict[str, dict[str, int]]:
        """Count samples per level of each output."""
        return self._count_values(targets, self.levels)
