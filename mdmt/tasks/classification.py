"""Exclusive classes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

import numpy as np
from pydantic import Field

from mdmt.strict import Names
from mdmt.tasks.base import FloatArray, task_kinds
from mdmt.tasks.families import Probabilities

if TYPE_CHECKING:
    from torch import Tensor


@task_kinds.register("classification")
class Classification(Probabilities):
    """One of C exclusive classes, such as MILD and SEVERE.

    The target is the class index, the loss is cross-entropy, and a prediction is the probability
    of every class.
    """

    kind: Literal["classification"] = "classification"
    classes: Annotated[Names, Field(min_length=2)]
    """With two classes, the second is the positive one."""

    secondary: ClassVar[Mapping[str, str]] = {"balanced_accuracy": "higher", "brier": "lower"}
    exclusive: ClassVar[bool] = True

    @property
    def labels(self) -> tuple[str, ...]:
        """The classes."""
        return self.classes

    @property
    def columns(self) -> tuple[str, ...]:
        """One column, which contains the class."""
        return ("",)

    @property
    def binary_outputs(self) -> Sequence[int]:
        """The second of two classes; every class of more."""
        return (1,) if len(self.classes) == 2 else range(len(self.classes))

    def truth(self, targets: FloatArray) -> FloatArray:
        """1 for the class of a sample, 0 for the others; see `Task.truth`."""
        one_hot = (targets == np.arange(len(self.classes))).astype(np.float64)
        return np.where(np.isnan(targets), np.nan, one_hot)

    def from_table(
        self, targets: FloatArray, predictions: FloatArray
    ) -> tuple[FloatArray, FloatArray]:
        """Class indices (N, 1), and the probability of the first of two classes too."""
        if len(self.classes) == 2:
            return targets[:, 1:], np.column_stack([1 - predictions[:, 1], predictions[:, 1]])
        labelled = np.isfinite(targets).all(axis=1, keepdims=True)
        classes = targets.argmax(axis=1)[:, None]
        return np.where(labelled, classes, np.nan), predictions

    def encode(self, column: str, text: str) -> float:
        """Index of the class written as `text`; see `Task.encode`."""
        if text not in self.classes:
            raise ValueError(f"expected one of {', '.join(self.classes)}")
        return float(self.classes.index(text))

    def elementwise_loss(
        self, outputs: Tensor, targets: Tensor, class_weights: Tensor | None = None
    ) -> Tensor:
        """Cross-entropy, each sample's times the weight of its class; see `Task`."""
        from torch.nn.functional import cross_entropy

        weight = None if class_weights is None else class_weights.to(outputs)
        return cross_entropy(outputs, targets[:, 0].long(), weight, reduction="none")[:, None]

    def balanced_weights(self, targets: FloatArray) -> FloatArray:
        """Give class c the weight n / (C′·n_c), C′ being the number of classes present.

        The weights average 1 over the samples. A class without a sample gets 1,
        which no training sample uses.
        """
        counts = self._counts(targets)
        present = max(np.count_nonzero(counts), 1)
        return np.where(counts > 0, counts.sum() / (present * np.maximum(counts, 1.0)), 1.0)

    def decode(self, outputs: FloatArray) -> FloatArray:
        """Probabilities (N, C) by softmax, float64."""
        from scipy.special import softmax

        return np.asarray(softmax(np.asarray(outputs, dtype=np.float64), axis=1))

    def constant(self, targets: FloatArray) -> FloatArray:
        """Class frequencies; uniform if nothing is labelled."""
        counts = self._counts(targets)
        return counts / counts.sum() if counts.any() else np.full(len(counts), 1 / len(counts))

    def metrics(self, predictions: FloatArray, targets: FloatArray) -> dict[str, float]:
        """Metrics of probabilities (N, C) against class indices (N, 1); see `Task.metrics`.

        Precision, recall and F1 are means over classes weighted by their support (0 for a class
        that is never predicted). Balanced accuracy and G-mean are the arithmetic and geometric
        mean of the recalls of the classes present, AUROC is that of the second class or, for
        C > 2, the mean of one-versus-rest over the classes present; all three need two classes.
        Brier is mean (p - y)² of the second class, for C > 2 summed over classes.
        """
        names = ("accuracy", "balanced_accuracy", "gmean", "precision", "recall", "f1")
        labelled = np.isfinite(targets[:, 0])
        if not labelled.any():
            return dict.fromkeys((*names, "auroc", "brier"), math.nan)
        probabilities, truth = predictions[labelled], targets[labelled, 0].astype(int)
        chosen = probabilities.argmax(axis=1)
        correct, support, predicted = (
            np.bincount(of, minlength=len(self.classes)).astype(np.float64)
            for of in (truth[truth == chosen], truth, chosen)
        )
        of_class = correct / np.maximum(support, 1)
        share = support / support.sum()
        recalls = of_class[support > 0]
        several = len(recalls) > 1
        distance = ((probabilities - np.eye(len(self.classes))[truth]) ** 2).sum(axis=1).mean()
        return {
            "accuracy": float(correct.sum() / support.sum()),
            "balanced_accuracy": float(recalls.mean()) if several else math.nan,
            "gmean": float(recalls.prod() ** (1 / len(recalls))) if several else math.nan,
            "precision": float(share @ (correct / np.maximum(predicted, 1))),
            "recall": float(share @ of_class),
            "f1": float(share @ (2 * correct / np.maximum(support + predicted, 1))),
            "auroc": self.metric("auroc", predictions, targets),
            "brier": float(distance) / (2 if len(self.classes) == 2 else 1),
        }

    def histogram(self, targets: FloatArray) -> dict[str, dict[str, int]]:
        """Count samples per class, under the column ``""``."""
        counts = self._counts(targets).astype(int).tolist()
        return {"": dict(zip(self.classes, counts, strict=True))}

    def mirrored(self, targets: Tensor) -> Tensor:
        """Class indices (N, 1) after a horizontal flip; see `Task.mirrored`."""
        import torch

        permutation = self.mirror_permutation()
        assert permutation is not None, "one column always has a permutation"
        present = torch.isfinite(targets)
        table = torch.tensor(permutation, dtype=targets.dtype, device=targets.device)
        return torch.where(present, table[torch.where(present, targets, 0).long()], targets)

    def _counts(self, targets: FloatArray) -> FloatArray:
        """Count samples per class, float (C,)."""
        labelled = targets[np.isfinite(targets[:, 0]), 0].astype(int)
        return np.bincount(labelled, minlength=len(self.classes)).astype(np.float64)
