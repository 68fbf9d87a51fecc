"""Two families of kinds: those whose predictions are probabilities, and those of numbers."""

import math
from collections.abc import Mapping
from typing import ClassVar

import numpy as np

from mdmt.strict import Names
from mdmt.tasks.base import FloatArray, Strata, Task
from mdmt.tasks.statistics import auroc, error_metrics, mean_absolute_error, mean_defined


class Probabilities(Task):
    """Predictions are probabilities; those of `binary_outputs` are ranked against a yes or no."""

    primary: ClassVar[str] = "auroc"
    primary_is_better_when: ClassVar[str] = "higher"
    discrete: ClassVar[bool] = True

    @property
    def bounds(self) -> tuple[float, float]:
        """Lowest and highest probability."""
        return 0.0, 1.0

    def metric(
        self, name: str, predictions: FloatArray, targets: FloatArray, strata: Strata = None
    ) -> float:
        """One entry of `metrics`; AUROC, the mean over the binary outputs, without the others."""
        if name != "auroc":
            return super().metric(name, predictions, targets, strata)
        truth = self.truth(targets)
        areas = []
        for output in self.binary_outputs:
            rows = np.isfinite(truth[:, output])
            within = None if strata is None else strata[rows]
            areas.append(auroc(truth[rows, output] == 1, predictions[rows, output], within))
        return mean_defined(areas)


class Numbers(Task):
    """K numbers per sample within the same `bounds`; a prediction is a number per output.

    A subclass defines `elementwise_loss`, `decode` and usually `bounds`.
    """

    outputs: Names

    primary: ClassVar[str] = "mae"
    primary_is_better_when: ClassVar[str] = "lower"
    secondary: ClassVar[Mapping[str, str]] = {
        "pearson": "higher",
        "r2": "higher",
        "sum_mae": "lower",
    }

    @property
    def labels(self) -> tuple[str, ...]:
        """The outputs."""
        return self.outputs

    @property
    def summable(self) -> bool:
        """Several scores with the same bounds have a sum; measurements with a unit do not."""
        return len(self.outputs) > 1 and not self.units

    @property
    def shown_metrics(self) -> dict[str, str]:
        """See `Task.shown_metrics`; without the error of a sum that has no meaning."""
        shown = super().shown_metrics
        return shown if self.summable else {k: v for k, v in shown.items() if k != "sum_mae"}

    def encode(self, column: str, text: str) -> float:
        """Read the number written as `text`, a whole one (``2`` or ``2.0``) if `discrete`."""
        low, high = self.bounds
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not low <= value <= high or math.isinf(value) or (self.discrete and value % 1):
            number = "whole number" if self.discrete else "number"
            raise ValueError(f"expected a {number} from {low:g} to {high:g}")
        return value

    def constant(self, targets: FloatArray) -> FloatArray:
        """Median of each output, which minimises its MAE; the middle where none is labelled."""
        low, high = self.bounds
        middle = (low + high) / 2 if math.isfinite(low + high) else min(max(0.0, low), high)
        columns = (column[np.isfinite(column)] for column in targets.T)
        return np.array([np.median(column) if len(column) else middle for column in columns])

    def metrics(self, predictions: FloatArray, targets: FloatArray) -> dict[str, float]:
        """`statistics.error_metrics` of (N, K) numbers; see `Task.metrics`."""
        return error_metrics(predictions, targets, self.outputs, total=self.summable)

    def metric(
        self, name: str, predictions: FloatArray, targets: FloatArray, strata: Strata = None
    ) -> float:
        """One entry of `metrics`; MAE without the others."""
        if name == "mae":
            return mean_absolute_error(predictions, targets)
        return super().metric(name, predictions, targets, strata)
