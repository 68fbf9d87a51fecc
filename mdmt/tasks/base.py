"""What every kind of task can do: the one interface between labels and the rest of the code."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import model_validator

from mdmt.files import yaml_line
from mdmt.registry import Registry
from mdmt.strict import Strict

if TYPE_CHECKING:
    from torch import Tensor

FloatArray = NDArray[np.floating]
Strata = NDArray[Any] | None


task_kinds: Registry[type[Task]] = Registry("task kind", "mdmt.tasks")
"""Classes of task kinds by the ``kind`` that a configuration names."""


class Task(Strict, ABC):
    """The label space of one task, and everything that follows from its kind.

    A target is a row of `width` floats; NaN is a missing label. A head gives
    `n_outputs` numbers; `decode` turns them into predictions, one column per entry of
    `prediction_names`. A kind has to define `labels`, `encode`, `elementwise_loss` (or `loss`),
    `decode`, `constant`, `metrics` and `primary`; the other methods have a default.
    """

    kind: str
    mirror: dict[str, str] | None = None
    """Labels that a horizontal flip exchanges, such as ``{A: D}``; ``{}`` if it changes none."""

    if TYPE_CHECKING:  # a property where the kind's own field has another name, else that field

        @property
        @abstractmethod
        def labels(self) -> tuple[str, ...]:
            """Names of the labels: the classes, outputs or findings."""

    primary: ClassVar[str]
    """The metric that chooses a task's best round."""
    primary_is_better_when: ClassVar[str]
    """``higher`` or ``lower``."""
    secondary: ClassVar[Mapping[str, str]] = {}
    """Metrics that are shown in addition to the primary one; better if ``higher`` or ``lower``."""
    exclusive: ClassVar[bool] = False
    """Whether a sample has exactly one of the labels, and its target is the label's index."""
    discrete: ClassVar[bool] = False
    """Whether `histogram` counts labels that each should occur in training data."""

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the target columns; ``("",)`` if one column contains the whole label."""
        return self.labels

    @property
    def prediction_names(self) -> tuple[str, ...]:
        """Names of the columns of `decode`."""
        return self.labels

    @property
    def n_outputs(self) -> int:
        """How many numbers a head gives per sample."""
        return len(self.prediction_names)

    @property
    def width(self) -> int:
        """How many target columns a sample has."""
        return len(self.columns)

    @property
    def summable(self) -> bool:
        """Whether the sum of the predictions has a meaning (the Brixia global score)."""
        return False

    @property
    def units(self) -> str:
        """The unit of targets and predictions, such as ``years``; empty without one."""
        return ""

    @property
    def shown_metrics(self) -> dict[str, str]:
        """What is shown of a task, its primary metric first; each is better higher or lower."""
        return {self.primary: self.primary_is_better_when, **self.secondary}

    @property
    def bounds(self) -> tuple[float, float]:
        """Lowest and highest value of a prediction."""
        return -math.inf, math.inf

    @property
    def binary_outputs(self) -> Sequence[int]:
        """Columns of the predictions that are the probability of a yes and have an AUROC.

        A kind without any predicts numbers in the units of its targets, which have an error.
        """
        return ()

    @property
    def tabled_outputs(self) -> Sequence[int]:
        """Columns of the predictions that a table needs; the others follow from them."""
        return self.binary_outputs or range(len(self.prediction_names))

    def truth(self, targets: FloatArray) -> FloatArray:
        """What every prediction should be, (N, P), of targets (N, width); NaN where missing.

        1 (yes) or 0 (no) in the columns of `binary_outputs`.
        """
        return targets

    def from_table(
        self, targets: FloatArray, predictions: FloatArray
    ) -> tuple[FloatArray, FloatArray]:
        """Restore targets (N, width) and predictions (N, P) of a table.

        Parameters
        ----------
        targets, predictions : ndarray, float, (N, P)
            `truth` and predictions in the columns `tabled_outputs`; NaN in the others.
        """
        return targets, predictions

    @abstractmethod
    def encode(self, column: str, text: str) -> float:
        """Turn one label as written in a table into a target.

        Parameters
        ----------
        column : str
            An entry of `columns`.
        text : str
            The stripped, non-empty cell.

        Raises
        ------
        ValueError
            The text is not a label; the message says what was expected.
        """

    def loss(
        self, outputs: Tensor, targets: Tensor, class_weights: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Mean loss of a batch over the labels that are present.

        ℓ_t = Σ m·e / Σ m, where m = 1 for a present label and e is `elementwise_loss`. Dividing by
        the labelled count, not by the batch, keeps a task's scale whatever else is in the batch
        (the paper's indicator, which its published code divides by the batch). A kind whose loss
        is not a sum over labels overrides this method.

        Parameters
        ----------
        outputs : Tensor, float, (N, n_outputs)
        targets : Tensor, float, (N, width)
            NaN is a missing label.
        class_weights : Tensor, float, optional
            As `balanced_weights` gives them; they multiply e and leave the count alone.

        Returns
        -------
        loss : Tensor, scalar, dtype of `outputs`
            Exactly 0, with zero gradient, where nothing is labelled.
        count : Tensor, scalar, same dtype
            Σ m, the number of labels present.
        """
        import torch

        present = torch.isfinite(targets)
        # A NaN must not enter the loss: masking its value afterwards leaves a NaN gradient.
        losses = self.elementwise_loss(outputs, torch.where(present, targets, 0.0), class_weights)
        count = present.sum().to(losses.dtype)
        return torch.where(present, losses, 0.0).sum() / count.clamp(min=1), count

    def elementwise_loss(
        self, outputs: Tensor, targets: Tensor, class_weights: Tensor | None = None
    ) -> Tensor:
        """Loss of each target column of each sample, before masking.

        Parameters
        ----------
        outputs : Tensor, float, (N, n_outputs)
        targets : Tensor, float, (N, width)
            Without NaN (missing labels are 0 here; `loss` masks them).
        class_weights : Tensor, float, optional
            As `balanced_weights` gives them.

        Returns
        -------
        Tensor, float, (N, width)
        """
        raise NotImplementedError(f"{type(self).__name__} has neither elementwise_loss nor loss")

    def balanced_weights(self, targets: FloatArray) -> FloatArray | None:
        """Class weights that give every class the same total weight.

        Parameters
        ----------
        targets : ndarray, float, (N, width)
            Training targets, NaN where missing.

        Returns
        -------
        ndarray or None
            None where the kind has no classes to balance.
        """
        return None

    @abstractmethod
    def decode(self, outputs: FloatArray) -> FloatArray:
        """Turn head outputs (N, n_outputs) into predictions (N, len(prediction_names))."""

    @abstractmethod
    def constant(self, targets: FloatArray) -> FloatArray:
        """Best constant prediction, shape (len(prediction_names),), for training targets."""

    @abstractmethod
    def metrics(self, predictions: FloatArray, targets: FloatArray) -> dict[str, float]:
        """Metrics of predictions (N, P) against targets (N, width) with NaN where missing.

        A metric that is undefined on these samples is NaN.
        """

    def metric(
        self, name: str, predictions: FloatArray, targets: FloatArray, strata: Strata = None
    ) -> float:
        """One entry of `metrics`; kinds make it fast for their primary one.

        With `strata` (N,), such as the model that predicted a sample, ``auroc`` compares samples
        of one stratum only; other metrics are what they are without.
        """
        return self.metrics(predictions, targets)[name]

    def histogram(self, targets: FloatArray) -> dict[str, dict[str, int]]:
        """Count every label: target column → label text → number of samples.

        By default only how many samples are labelled. The label texts must not depend on
        `targets`: histograms of several sites are added.
        """
        counts = np.isfinite(targets).sum(axis=0).tolist()
        return {c: {"labelled": n} for c, n in zip(self.columns, counts, strict=True)}

    def _count_values(self, targets: FloatArray, n: int) -> dict[str, dict[str, int]]:
        """Count the samples of each label (one target column each) per value 0 to n - 1."""
        return {
            label: {str(value): int((values == value).sum()) for value in range(n)}
            for label, values in zip(self.labels, targets.T, strict=True)
        }

    def disagreement(self, other: Task) -> str | None:
        """Say in one phrase how `other` differs as a label space, or None."""
        mine, theirs = (task.model_dump(mode="json", exclude={"mirror"}) for task in (self, other))
        for key in mine | theirs:
            if mine.get(key) != theirs.get(key):
                found, expected = (
                    yaml_line(of[key]) if key in of else "absent" for of in (theirs, mine)
                )
                return f"{key} is {found} where {expected} is expected"
        return None

    @property
    def _partners(self) -> dict[str, str]:
        """Each exchanged label and its partner, in both directions."""
        mirror = self.mirror or {}
        return {b: a for a, b in mirror.items()} | mirror

    @model_validator(mode="after")
    def _mirror_pairs_labels(self) -> Self:
        partners = self._partners
        for label, partner in partners.items():
            if label not in self.labels:
                raise ValueError(f"mirror: {label} is none of {', '.join(self.labels)}")
            if partners[partner] != label:
                raise ValueError(f"mirror: {partner} has two partners; pair each label once")
        return self

    def mirror_permutation(self) -> tuple[int, ...] | None:
        """Order of `labels` after a horizontal flip; None if the task does not say.

        A task with one target column and no `mirror` does not depend on laterality.
        """
        if self.mirror is None and self.width > 1:
            return None
        return tuple(self.labels.index(self._partners.get(name, name)) for name in self.labels)

    def mirrored(self, targets: Tensor) -> Tensor:
        """Targets (N, width) of the same samples after a horizontal flip."""
        permutation = self.mirror_permutation()
        assert permutation is not None, "the configuration refuses to flip images of such a task"
        return targets[:, list(permutation)]
