"""What kinds whose predictions are probabilities have in common."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from mdmt.tasks.base import FloatArray, Strata, Task
from mdmt.tasks.statistics import auroc, mean_defined

__all__ = ["Probabilities"]


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
