"""Findings that may occur together."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from mdmt.strict import Names
from mdmt.tasks.base import FloatArray, task_kinds
from mdmt.tasks.families import Probabilities
from mdmt.tasks.statistics import auroc, mean_defined

if TYPE_CHECKING:
    from torch import Tensor


@task_kinds.register("multilabel")
class Multilabel(Probabilities):
    """K findings, each absent (0), present (1) or not labelled.

    The loss is binary cross-entropy and a prediction is the probability of every finding.
    """

    kind: Literal["multilabel"] = "multilabel"
    labels: Names

    @property
    def binary_outputs(self) -> Sequence[int]:
        """Every finding."""
        return range(len(self.labels))

    def encode(self, column: str, text: str) -> float:
        """0 or 1 (or, as spreadsheets write it, 0.0 or 1.0); see `Task.encode`."""
        values = {"0": 0.0, "1": 1.0, "0.0": 0.0, "1.0": 1.0}
        if text not in values:
            raise ValueError("expected 0 or 1")
        return values[text]

    def elementwise_loss(
        self, outputs: Tensor, targets: Tensor, class_weights: Tensor | None = None
    ) -> Tensor:
        """Binary cross-entropy, that of a present finding times its weight; see `Task`."""
        from torch.nn.functional import binary_cross_entropy_with_logits

        return binary_cross_entropy_with_logits(
            outputs,
            targets.to(outputs.dtype),
            pos_weight=None if class_weights is None else class_weights.to(outputs),
            reduction="none",
        )

    def balanced_weights(self, targets: FloatArray) -> FloatArray:
        """Weight n₀/n₁ of each finding's presence (K,); 1 unless both values occur."""
        absent, present = (targets == 0).sum(axis=0), (targets == 1).sum(axis=0)
        return np.where((absent > 0) & (present > 0), absent / np.maximum(present, 1), 1.0)

    def decode(self, outputs: FloatArray) -> FloatArray:
        """Probabilities (N, K) by the logistic function, float64."""
        from scipy.special import expit

        return np.asarray(expit(np.asarray(outputs, dtype=np.float64)))

    def constant(self, targets: FloatArray) -> FloatArray:
        """Prevalence of each finding among its labelled samples; 0.5 where none is labelled."""
        columns = (column[np.isfinite(column)] for column in targets.T)
        return np.array([column.mean(dtype=float) if len(column) else 0.5 for column in columns])

    def metrics(self, predictions: FloatArray, targets: FloatArray) -> dict[str, float]:
        """Metrics of probabilities (N, K) against 0/1 targets (N, K); see `Task.metrics`.

        ``auroc``, ``balanced_accuracy``, ``f1`` (both at 0.5) and ``brier`` are means over the
        findings where they are defined; ``auroc_<finding>`` is that of each.
        """
        findings = [
            _finding_metrics(predictions[rows, k], targets[rows, k] == 1)
            for k, rows in enumerate(np.isfinite(targets).T)
        ]
        keys = ("auroc", "balanced_accuracy", "f1", "brier")
        result = {key: mean_defined(finding[key] for finding in findings) for key in keys}
        each = zip(self.labels, findings, strict=True)
        return result | {f"auroc_{label}": finding["auroc"] for label, finding in each}

    def histogram(self, targets: FloatArray) -> dict[str, dict[str, int]]:
        """Count samples without (``0``) and with (``1``) each finding."""
        return self._count_values(targets, 2)


def _finding_metrics(probabilities: FloatArray, present: NDArray[np.bool_]) -> dict[str, float]:
    """Metrics of one finding (N,), all labelled."""
    from sklearn.metrics import balanced_accuracy_score, brier_score_loss, f1_score

    chosen = probabilities >= 0.5
    both = 0 < present.sum() < len(present)
    any_positive = bool(present.any() or chosen.any())
    return {
        "auroc": auroc(present, probabilities),
        "balanced_accuracy": float(balanced_accuracy_score(present, chosen)) if both else math.nan,
        "f1": float(f1_score(present, chosen, zero_division=0.0)) if any_positive else math.nan,
        "brier": float(brier_score_loss(present, probabilities)) if len(present) else math.nan,
    }
