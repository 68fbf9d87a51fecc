"""What every kind of task can do: the one interface between labels and the rest of the code."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import AfterValidator, model_validator

from mdmt.strict import Strict

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["FloatArray", "Names", "Task"]

FloatArray = NDArray[np.floating]


def _distinct(names: tuple[str, ...]) -> tuple[str, ...]:
    if not names:
        raise ValueError("expected at least one name")
    for name in names:
        if not name or name != name.strip():
            raise ValueError(f"expected names without spaces around them, not {name!r}")
        if names.count(name) > 1:
            raise ValueError(f"the name {name} stands twice")
    return names


Names = Annotated[tuple[str, ...], AfterValidator(_distinct)]
"""Names of labels: at least one, none empty, none twice."""


class Task(Strict, ABC):
    """The label space of one task, and everything that follows from its kind.

    A target is a float row of `width` numbers, NaN where a label is missing. A head gives
    `n_outputs` numbers; `decode` turns them into predictions, one column per entry of
    `prediction_names`.
    """

    kind: str
    mirror: dict[str, str] | None = None
    """Labels that a horizontal flip exchanges, such as ``{A: D}``; ``{}`` if it changes none."""

    primary: ClassVar[str]
    """The metric that chooses a task's best round."""
    primary_is_better_when: ClassVar[str]
    """``higher`` or ``lower``."""

    if TYPE_CHECKING:  # a property where the kind's own field has another name, else that field

        @property
        @abstractmethod
        def labels(self) -> tuple[str, ...]:
            """Names of the labels: the classes, outputs or findings."""

    @model_validator(mode="after")
    def _mirror_pairs_labels(self) -> Self:
        for label, partner in (self.mirror or {}).items():
            for name in (label, partner):
                if name not in self.labels:
                    raise ValueError(f"mirror: {name} is none of {', '.join(self.labels)}")
            if any((a == partner) != (b == label) for a, b in _both_ways(self.mirror or {})):
                raise ValueError(
                    f"mirror: {label} or {partner} has two partners; pair each label once"
                )
        return self

    @property
    @abstractmethod
    def columns(self) -> tuple[str, ...]:
        """Names of the target columns; ``("",)`` where one column holds the whole label."""

    @property
    @abstractmethod
    def n_outputs(self) -> int:
        """How many numbers a head gives per sample."""

    @property
    @abstractmethod
    def prediction_names(self) -> tuple[str, ...]:
        """Names of the columns of `decode`."""

    @property
    def width(self) -> int:
        """How many target columns a sample has."""
        return len(self.columns)

    @property
    def summable(self) -> bool:
        """Whether the sum of the predictions has a meaning (the Brixia global score)."""
        return False

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

    @abstractmethod
    def elementwise_loss(
        self, outputs: Tensor, targets: Tensor, class_weights: Tensor | None = None
    ) -> Tensor:
        """Loss of each target column of each sample, before masking.

        Parameters
        ----------
        outputs : Tensor, float, (N, n_outputs)
        targets : Tensor, float, (N, width)
            Without NaN (missing labels are 0 here; the caller masks them).
        class_weights : Tensor, float, optional
            As `balanced_weights` gives them.

        Returns
        -------
        Tensor, float, (N, width)
        """

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
        self,
        name: str,
        predictions: FloatArray,
        targets: FloatArray,
        strata: NDArray[Any] | None = None,
    ) -> float:
        """One entry of `metrics`; kinds make it fast for their primary one.

        With `strata` (N,), such as the model that predicted a sample, ``auroc`` compares samples
        of one stratum only; other metrics are what they are without.
        """
        return self.metrics(predictions, targets)[name]

    @abstractmethod
    def histogram(self, targets: FloatArray) -> dict[str, dict[str, int]]:
        """Count every label: target column → label text → number of samples."""

    def mirror_permutation(self) -> tuple[int, ...] | None:
        """Order of `labels` after a horizontal flip; None where the task does not say.

        A single-label task that declares no mirror is taken not to depend on laterality.
        """
        if self.mirror is None:
            return None if self.width > 1 else tuple(range(len(self.labels)))
        partner = dict(_both_ways(self.mirror))
        order = {label: index for index, label in enumerate(self.labels)}
        return tuple(order[partner.get(label, label)] for label in self.labels)

    def mirrored(self, targets: Tensor) -> Tensor:
        """Targets (N, width) of the same samples after a horizontal flip."""
        permutation = self.mirror_permutation()
        assert permutation is not None, "the augmentation refuses such a task when it is configured"
        return targets[:, list(permutation)]

    def disagreement(self, other: Task) -> str | None:
        """Say in one phrase how `other` differs as a label space, or None."""
        mine, theirs = (task.model_dump(exclude={"mirror"}) for task in (self, other))
        for key in mine | theirs:
            if mine.get(key) != theirs.get(key):
                return (
                    f"{key} is {_plain(theirs.get(key))} where {_plain(mine.get(key))} is expected"
                )
        return None


def _both_ways(mirror: Mapping[str, str]) -> set[tuple[str, str]]:
    """Turn ``{A: D}`` into the pairs (A, D) and (D, A)."""
    return {pair for a, b in mirror.items() for pair in ((a, b), (b, a))}


def _plain(value: object) -> str:
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{k}: {_plain(v)}" for k, v in value.items()) + "}"
    if isinstance(value, Sequence) and not isinstance(value, str):
        return "[" + ", ".join(map(_plain, value)) + "]"
    return "absent" if value is None else str(value)
