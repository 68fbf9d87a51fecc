"""Choose the best rounds, and lower the learning rate, by validation metrics."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

from mdmt.config import FederationConfig
from mdmt.messages import Metrics
from mdmt.metrics import weighted_mean_metrics


@dataclass(frozen=True)
class Best:
    """The best round of one task so far, and the sites that it was compared over."""

    round: int
    value: float
    sites: tuple[str, ...]


@dataclass
class Selection:
    """The best round of each task by its primary validation metric, and the plateau scheduler.

    Rounds are compared over the same sites: a round counts only if every site that validates the
    task reported it. If more sites report than before, the comparison starts again with them. The
    initial backbone (round 0) is never a best round, because its heads are random.
    """

    config: FederationConfig
    best: dict[str, Best] = field(default_factory=dict)
    lr_factor: float = 1.0
    lowest_loss: float = float("inf")
    compared: tuple[str, ...] = ()
    """The terms of `lowest_loss`, as ``site/task``."""
    rounds_without_gain: int = 0
    _before: tuple[int, ...] = ()

    @property
    def best_rounds(self) -> tuple[int, ...]:
        """The best rounds of all tasks."""
        return tuple(sorted({best.round for best in self.best.values()}))

    @property
    def kept_rounds(self) -> tuple[int, ...]:
        """The best rounds now and one round ago, because a run can go back by one round."""
        return tuple(sorted({*self.best_rounds, *self._before}))

    def book(
        self,
        number: int,
        validation: Mapping[str, Metrics],
        expected: Mapping[str, Collection[str]],
    ) -> Metrics:
        """Record the validation metrics of a round.

        Parameters
        ----------
        number : int
            The round.
        validation : mapping of str to mapping
            Site → metrics.
        expected : mapping of str to collection of str
            Task → sites that validate it.

        Returns
        -------
        dict
            Means over the reporting sites, weighted by their labelled images.
        """
        means = weighted_mean_metrics(validation, self.config.aggregation.max_weight)
        complete = {task for task, sites in expected.items() if set(sites) <= set(validation)}
        self._book(number, means, complete, lambda key: _defined(key, validation))
        if complete >= set(expected):
            self._plateau(means, lambda key: _defined(key, validation))
        return means

    def book_sums(self, number: int, means: Metrics, supports: Mapping[str, int]) -> None:
        """Record the validation metrics of a round, of which only sums over all sites are known.

        Parameters
        ----------
        number : int
            The round.
        means : mapping
            ``task/metric`` → mean.
        supports : mapping of str to int
            ``task/metric`` → number of images behind the mean. It takes the place of the sites:
            rounds with the same number are compared.
        """

        def support(key: str) -> tuple[str, ...]:
            return (f"{supports[key]} images",) if supports.get(key) else ()

        self._book(number, means, self.config.tasks, support)
        self._plateau(means, support)

    def _book(
        self,
        number: int,
        means: Metrics,
        complete: Collection[str],
        defined: Callable[[str], tuple[str, ...]],
    ) -> None:
        """Compare the means of `complete` tasks; `defined` are the sites behind a mean."""
        self._before = self.best_rounds
        if number > 0:
            for task in self.config.tasks:  # a set has another order in every process
                if task in complete:
                    self._compare(number, task, means, defined)

    def save(self) -> dict[str, Any]:
        """Return the state for `load`, in JSON types."""
        return {
            "best": {t: [best.round, best.value, best.sites] for t, best in self.best.items()},
            "lr_factor": self.lr_factor,
            "lowest_loss": None if self.lowest_loss == float("inf") else self.lowest_loss,
            "compared": self.compared,
            "rounds_without_gain": self.rounds_without_gain,
        }

    def load(self, saved: Mapping[str, Any]) -> None:
        """Restore the state that `save` returned."""
        self.best = {t: Best(n, v, tuple(sites)) for t, (n, v, sites) in saved["best"].items()}
        self.lr_factor = saved["lr_factor"]
        lowest = saved["lowest_loss"]
        self.lowest_loss = float("inf") if lowest is None else lowest
        self.compared = tuple(saved["compared"])
        self.rounds_without_gain = saved["rounds_without_gain"]

    def forget(self, kept: Collection[int]) -> dict[str, int]:
        """Forget best rounds that are not kept any more. Return them by task."""
        lost = {task: best.round for task, best in self.best.items() if best.round not in kept}
        for task in lost:
            del self.best[task]
        return lost

    def _compare(
        self,
        number: int,
        task: str,
        means: Metrics,
        defined: Callable[[str], tuple[str, ...]],
    ) -> None:
        space = self.config.space(task)
        key = f"{task}/{space.primary}"
        sites = defined(key)
        value, best = means.get(key), self.best.get(task)
        if value is None or (best is not None and not set(best.sites) <= set(sites)):
            return
        sign = 1 if space.primary_is_better_when == "higher" else -1
        if best is None or best.sites != sites or sign * value > sign * best.value:
            self.best[task] = Best(number, float(value), sites)

    def _plateau(self, means: Metrics, defined: Callable[[str], tuple[str, ...]]) -> None:
        scheduler = self.config.training.scheduler
        if scheduler.name != "plateau":
            return
        losses = {
            name: loss
            for name in self.config.tasks
            if (loss := means.get(f"{name}/loss")) is not None
        }
        compared = tuple(f"{s}/{t}" for t in losses for s in defined(f"{t}/loss"))
        if not losses or not set(self.compared) <= set(compared):
            return
        total = sum(self.config.tasks[name].weight * loss for name, loss in losses.items())
        if total < self.lowest_loss or compared != self.compared:
            self.lowest_loss, self.compared, self.rounds_without_gain = total, compared, 0
            return
        self.rounds_without_gain += 1
        if self.rounds_without_gain > scheduler.patience:
            self.lr_factor *= scheduler.gamma
            self.rounds_without_gain = 0


def _defined(key: str, validation: Mapping[str, Metrics]) -> tuple[str, ...]:
    """Return the sites that report a value, sorted."""
    return tuple(s for s in sorted(validation) if validation[s].get(key) is not None)
