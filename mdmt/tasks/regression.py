"""Numbers in a range."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import field_validator

from mdmt.tasks.base import FloatArray, Names, Task
from mdmt.tasks.statistics import error_metrics, mean_absolute_error

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["Regression"]


class Regression(Task):
    """K numbers in a common range, such as six lung-zone scores in [0, 3].

    Targets and predictions are in the units of the range. A head's output o stands for
    mid + half·o, where mid and half are the middle and half the width of the range: a head of
    zeros predicts the middle, and the loss has the same scale whatever the units.
    """

    kind: Literal["regression"] = "regression"
    outputs: Names
    range: tuple[float, float]

    primary: ClassVar[str] = "mae"
    primary_is_better_when: ClassVar[str] = "lower"

    @field_validator("range")
    @classmethod
    def _ordered(cls, value: tuple[float, float]) -> tuple[float, float]:
        if not value[0] < value[1]:
            raise ValueError(f"expected [low, high] with low < high, not {list(value)}")
        return value

    @property
    def labels(self) -> tuple[str, ...]:
        """The outputs."""
        return self.outputs

    @property
    def columns(self) -> tuple[str, ...]:
        """A column per output."""
        return self.outputs

    @property
    def n_outputs(self) -> int:
        """A normalised number per output."""
        return len(self.outputs)

    @property
    def prediction_names(self) -> tuple[str, ...]:
        """The outputs."""
        return self.outputs

    @property
    def summable(self) -> bool:
        """Outputs share one range, so their sum is a score when there are several."""
        return len(self.outputs) > 1

    @property
    def _middle_and_half(self) -> tuple[float, float]:
        low, high = self.range
        return (low + high) / 2, (high - low) / 2

    def encode(self, column: str, text: str) -> float:
        """Read the number written as `text`; see `Task.encode`."""
        low, high = self.range
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not low <= value <= high:
            raise ValueError(f"expected a number from {low:g} to {high:g}")
        return value

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

    def constant(self, targets: FloatArray) -> FloatArray:
        """Median of each output, which minimises its MAE; the middle where none is labelled."""
        middle, _ = self._middle_and_half
        columns = (column[np.isfinite(column)] for column in targets.T)
        return np.array([np.median(column) if len(column) else middle for column in columns])

    def metrics(self, predictions: FloatArray, targets: FloatArray) -> dict[str, float]:
        """`statistics.error_metrics` of (N, K) numbers; see `Task.metrics`."""
        return error_metrics(predictions, targets, self.outputs)

    def metric(
        self,
        name: str,
        predictions: FloatArray,
        targets: FloatArray,
        strata: NDArray[Any] | None = None,
    ) -> float:
        """One entry of `metrics`; MAE without the others."""
        if name == "mae":
            return mean_absolute_error(predictions, targets)
        return super().metric(name, predictions, targets, strata)

    def histogram(self, targets: FloatArray) -> dict[str, dict[str, int]]:
        """Count samples per whole number if the range has 3 to 21 of them, else per tenth of it.

        The bins depend on the range alone, so histograms of two sites can be added.
        """
        low, high = self.range
        whole = low.is_integer() and high.is_integer() and 2 <= high - low <= 20
        if whole:
            edges = np.arange(low - 0.5, high + 1)
            names = [f"{value:g}" for value in np.arange(low, high + 1)]
        else:
            edges = np.linspace(low, high, 11)
            names = [f"{a:g} to {b:g}" for a, b in pairwise(edges)]
        return {
            output: dict(
                zip(
                    names, np.histogram(values[np.isfinite(values)], edges)[0].tolist(), strict=True
                )
            )
            for output, values in zip(self.outputs, targets.T, strict=True)
        }
