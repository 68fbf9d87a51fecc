"""Which rounds are worth keeping, and how fast to go on learning: both read validation metrics."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from mdmt.config import FederationConfig
from mdmt.messages import Metrics

__all__ = ["Best", "Selection"]


@dataclass(frozen=True)
class Best:
    """The best round of one task so far."""

    round: int
    value: float
    arrays: Mapping[str, NDArray[np.floating]]


@dataclass
class Selection:
    """The best round of each task by its primary validation metric, and the plateau scheduler.

    The initial backbone (round 0) is never a best round: its heads are random.
    """

    config: FederationConfig
    best: dict[str, Best] = field(default_factory=dict)
    lr_factor: float = 1.0
    lowest_loss: float = float("inf")
    rounds_without_gain: int = 0

    @property
    def best_rounds(self) -> tuple[int, ...]:
        """Rounds that some task is best in."""
        return tuple(sorted({best.round for best in self.best.values()}))

    def book(
        self, number: int, metrics: Metrics, arrays: Mapping[str, NDArray[np.floating]]
    ) -> list[str]:
        """Note a round's support-weighted validation metrics; return the tasks it is best in."""
        improved = []
        for name, task in self.config.tasks.items():
            value = metrics.get(f"{name}/{task.space.primary}")
            if number == 0 or value is None:
                continue
            sign = 1 if task.space.primary_is_better_when == "higher" else -1
            best = self.best.get(name)
            if best is None or sign * value > sign * best.value:
                self.best[name] = Best(number, float(value), arrays)
                improved.append(name)
        self._plateau(metrics)
        return improved

    def _plateau(self, metrics: Metrics) -> None:
        scheduler = self.config.training.scheduler
        losses = {
            name: loss
            for name in self.config.tasks
            if (loss := metrics.get(f"{name}/loss")) is not None
        }
        if scheduler.name != "plateau" or not losses:
            return
        total = sum(self.config.tasks[name].weight * loss for name, loss in losses.items())
        if total < self.lowest_loss:
            self.lowest_loss, self.rounds_without_gain = total, 0
            return
        self.rounds_without_gain += 1
        if self.rounds_without_gain > scheduler.patience:
            self.lr_factor *= scheduler.gamma
            self.rounds_without_gain = 0
