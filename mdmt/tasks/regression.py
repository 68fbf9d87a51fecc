"""Numbers in a range."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, Annotated, Literal

import numpy as np
from pydantic import AfterValidator

from mdmt.strict import Short, increasing
from mdmt.tasks.base import FloatArray, task_kinds
from mdmt.tasks.families import Numbers

if TYPE_CHECKING:
    from torch import Tensor


@task_kinds.register("regression")
class Regression(Numbers):
    """K numbers in a common range, such as six lung-zone scores in [0, 3].

    Targets and predictions are in the units of the range. A head's output o stands for
    mid + half·o, where mid and half are the middle and half the width of the range: a head of
    zeros predicts the middle, and the loss has the same scale whatever the units.
    """

    kind: Literal["regression"] = "regression"
    range: Annotated[tuple[float, float], AfterValidator(increasing)]
    unit: Short | None = None
    """Unit of the numbers, such as ``years``. Numbers with a unit are not summed."""

    @property
    def units(self) -> str:
        """The unit."""
        return self.unit or ""

    @property
    def bounds(self) -> tuple[float, float]:
        """The range."""
        return self.range

    @property
    def _middle_and_half(self) -> tuple[float, float]:
        low, high = self.range
        return (low + high) / 2, (high - low) / 2

    def elementwise_loss(
        self, outputs: Tensor, targets: Tensor, class_weights: Tensor | None = None
    ) -> Tensor:
        """Squared error in units of half the range: (o - (y - mid)/half)²; see `Task`."""
        middle, half = self._middle_and_half
        return (outputs - (targets.to(outputs.dtype) - middle) / half) ** 2

    def decode(self, outputs: FloatArray) -> FloatArray:
        """Numbers (N, K) clipped to the range, float64."""
        middle, half = self._middle_and_half
        return np.clip(middle + half * np.asarray(outputs, dtype=np.float64), *self.range)

    def histogram(self, targets: FloatArray) -> dict[str, dict[str, int]]:
        """Count samples per whole number if the range has 3 to 21 of them, else per tenth of it.

        The bins depend only on the range, so histograms of two sites can be added.
        """
        low, high = self.range
        if low.is_integer() and high.is_integer() and 2 <= high - low <= 20:
            edges = np.arange(low - 0.5, high + 1)
            names = [f"{value:g}" for value in np.arange(low, high + 1)]
        else:
            edges = np.linspace(low, high, 11)
            names = [f"{a:g} to {b:g}" for a, b in pairwise(edges)]
        result = {}
        for output, values in zip(self.outputs, targets.T, strict=True):
            counts, _ = np.histogram(values[np.isfinite(values)], edges)
            result[output] = dict(zip(names, counts.tolist(), strict=True))
        return result
