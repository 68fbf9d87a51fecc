"""What kinds whose predictions are probabilities have in common."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from mdmt.tasks.base import FloatArray, Task
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
        self,
        name: str,
        predictions: FloatArray,
        targets: FloatArray,
        strata: NDArray[Any] | None = None,
    ) -> float:
        """One entry of `metrics`; AUROC without the others."""
        if name == "auroc":
            return self._auroc(predictions, targets, strata)
        return super().metric(name, predictions, targets, strata)

    def _auroc(
        self, predictions: FloatArray, targets: FloatArray, strata: NDArray[Any] | None = None
    ) -> float:
        """Mean AUROC of the binary outputs with a defined AUROC."""
        truth = self.truth(targets)
        labelled = np.isfinite(truth)
        return mean_defined(
            auroc(
                truth[rows, output] == 1,
                predictions[rows, output],
                None if strata is None else strata[rows],
            )
            for output in self.binary_outputs
            for rows in (labelled[:, output],)
        )
