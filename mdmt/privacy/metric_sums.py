"""Validation metrics as sums, so that secure aggregation can add them.

The mean of a metric over the sites is Σ n·value / Σ n, over the sites where it is defined. Each
site sends n·value and n of every metric, under the masks.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mdmt.config import FederationConfig
from mdmt.messages import KeyStatement, Metrics
from mdmt.privacy.fixed_point import decode_metrics, encode_metrics

METRICS = "metrics"
"""Name of the masked metrics in an update."""


@dataclass(frozen=True)
class MetricSums:
    """Metrics of all sites together.

    Attributes
    ----------
    means : Metrics
        ``task/metric`` → mean over the sites, weighted by their labelled images; None if no site
        has a value. ``task/examples`` is the sum, or None if a site withholds its number.
    supports : dict of str to int
        ``task/metric`` → images (or sites, if a site withholds its number) behind the mean.
    clipped : int
        Weights that were clipped, over all sites.
    """

    means: Metrics
    supports: dict[str, int]
    clipped: int = 0


class MetricLayout:
    """The order of the sums of a federation.

    Parameters
    ----------
    config : FederationConfig
    statements : mapping of str to KeyStatement
        If a site withholds the number of its labels of a task, all sites have equal weights in the
        means of this task.
    """

    def __init__(self, config: FederationConfig, statements: Mapping[str, KeyStatement]) -> None:
        self._sites = len(statements)
        self._names = {task: ("loss", *config.space(task).shown_metrics) for task in config.tasks}
        self._equal = {
            task
            for task in config.tasks
            if any(of.labels(task) is None for of in statements.values())
        }

    @property
    def size(self) -> int:
        """Number of sums."""
        return 1 + sum(1 + 2 * len(names) for names in self._names.values())

    def encode(self, metrics: Metrics, clipped: int = 0) -> NDArray[np.uint64]:
        """Return what one site adds.

        Parameters
        ----------
        metrics : Metrics
            Validation metrics that the site may report.
        clipped : int
            Number of clipped weights.

        Returns
        -------
        ndarray, uint64, (size,)
        """
        numbers: list[float] = [clipped]
        for task, names in self._names.items():
            images = metrics.get(f"{task}/examples") or 0
            weight = 1 if task in self._equal else images
            numbers.append(images)
            for name in names:
                value = metrics.get(f"{task}/{name}")
                numbers += (0, 0) if value is None else (value * weight, weight)
        return encode_metrics(numbers, self._sites)

    def decode(self, total: NDArray[np.uint64]) -> MetricSums:
        """Return the means of a sum over all sites.

        Raises
        ------
        ValueError
            See `decode_metrics`.
        """
        clipped, *numbers = decode_metrics(total)
        means: Metrics = {}
        supports: dict[str, int] = {}
        for task, names in self._names.items():
            means[f"{task}/examples"] = None if task in self._equal else round(numbers.pop(0))
            if task in self._equal:
                numbers.pop(0)
            for name in names:
                value, weight, *numbers = numbers
                means[f"{task}/{name}"] = value / weight if weight else None
                supports[f"{task}/{name}"] = round(weight)
        return MetricSums(means, supports, round(clipped))

    def add(self, parts: Iterable[NDArray[np.uint64]]) -> MetricSums:
        """Return the means of the numbers of all sites."""
        total = np.zeros(self.size, np.uint64)
        for part in parts:
            total += part
        return self.decode(total)


def as_words(numbers: NDArray[np.uint64]) -> NDArray[np.uint32]:
    """Return 64-bit numbers as an array of a message, (n, 2)."""
    return numbers.astype("<u8").view("<u4").reshape(-1, 2)


def from_words(words: NDArray[np.uint32]) -> NDArray[np.uint64]:
    """Return the 64-bit numbers of an array of a message."""
    return np.ascontiguousarray(words).reshape(-1).view("<u8")
