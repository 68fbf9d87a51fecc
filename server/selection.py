"""Which rounds are worth keeping, and how fast to go on learning: both read validation metrics."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from mdmt.config import FederationConfig
from mdmt.messages import Metrics

__all__ = ["Best", "Selection"]


@dataclass(frozen=True)
class Best:
    """The best round of one task so far."""

    round: int
    value: float


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
    _before: tuple[int, ...] = ()

    @property
    def best_rounds(self) -> tuple[int, ...]:
        """Rounds that some task is best in."""
        return tuple(sorted({best.round for best in self.best.values()}))

    @property
    def kept_rounds(self) -> tuple[int, ...]:
        """Best rounds, and those of one booking ago, as a run may go back by one round."""
        return tuple(sorted({*self.best_rounds, *self._before}))

    def book(self, number: int, metrics: Metrics) -> None:
        """Note a round's support-weighted validation metrics."""
        self._before = self.best_rounds
        for name, task in self.config.tasks.items():
            value = metrics.get(f"{name}/{task.space.primary}")
            if number == 0 or value is None:
                continue
            sign = 1 if task.space.primary_is_better_when == "higher" else -1
            best = self.best.get(name)
            if best is None or sign * value > sign * best.value:
                self.best[name] = Best(number, float(value))
        self._plateau(metrics)

    def save(self) -> dict[str, Any]:
        """What `load` needs, as JSON can hold it."""
        return {
            "best": {task: [best.round, best.value] for task, best in self.best.items()},
            "lr_factor": self.lr_factor,
            "lowest_loss": None if self.lowest_loss == float("inf") else self.lowest_loss,
            "rounds_without_gain": self.rounds_without_gain,
        }

    def load(self, saved: dict[str, Any]) -> None:
        """Put `save` back."""
        self.best = {task: Best(*best) for task, best in saved["best"].items()}
        self.lr_factor = saved["lr_factor"]
        lowest = saved["lowest_loss"]
        self.lowest_loss = float("inf") if lowest is None else lowest
        self.rounds_without_gain = saved["rounds_without_gain"]

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
