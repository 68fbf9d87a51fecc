"""What a horizontal flip of an image does to its labels."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Self

from pydantic import model_validator

from mdmt.strict import Strict

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["Mirrored"]


class Mirrored(Strict, ABC):
    """Labels that a horizontal flip may exchange, such as the zones of the two lungs."""

    mirror: dict[str, str] | None = None
    """Labels that a horizontal flip exchanges, such as ``{A: D}``; ``{}`` if it changes none."""

    if TYPE_CHECKING:  # a property where the kind's own field has another name, else that field

        @property
        @abstractmethod
        def labels(self) -> tuple[str, ...]:
            """Names of the labels: the classes, outputs or findings."""

        @property
        def width(self) -> int:
            """Number of target columns of a sample."""

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
