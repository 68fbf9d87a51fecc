"""Robust rules (Yin et al. 2018): each number of the model is combined on its own.

With more honest sites than bad ones, every number stays between values that honest sites sent,
whatever the others send. The weights of the sites do not count: a claim of many labels gains
nothing, and the federation does not minimise the pooled objective exactly.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Annotated, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from mdmt.algorithms.base import State, Weights, algorithms
from mdmt.algorithms.fedavg import FedAvg
from mdmt.blob import Arrays

_PIECE = 2**17
"""Numbers of all sites that are sorted in one step: they stay in the processor's cache."""


class _CoordinateWise(FedAvg):
    """The next value of each number is the mean of the middle values of the sites."""

    needs: ClassVar[Literal["sum", "updates"]] = "updates"

    @abstractmethod
    def cut(self, n: int) -> int:
        """Return how many of `n` values are cut at each end. At least one value stays."""

    def combine_each(self, state: State, updates: Mapping[str, Arrays], weights: Weights) -> State:
        """Combine each array over the sites that have a weight for it: running statistics too.

        A shared head of which no accepted site has labels stays as it is.
        """
        arrays = {}
        for name in state.arrays:
            sent = [updates[site][name] for site in sorted(updates) if name in weights[site]]
            if sent:
                arrays[name] = mean_of_middle(sent, self.cut(len(sent)))
        return state.updated(arrays)


@algorithms.register("trimmed_mean")
class TrimmedMean(_CoordinateWise):
    """The mean without the `trim` smallest and the `trim` largest values (algorithm 1, option II).

    It withstands `trim` bad sites. A shared head that too few sites have is trimmed less.
    """

    name: str = "trimmed_mean"
    trim: Annotated[int, Field(ge=1)] = 1

    @property
    def fewest_updates(self) -> int:
        """One value must stay."""
        return 2 * self.trim + 1

    def cut(self, n: int) -> int:
        """Return `trim`, or as many as possible."""
        return min(self.trim, (n - 1) // 2)


@algorithms.register("median")
class Median(_CoordinateWise):
    """The median of the sites (algorithm 1, option I). It withstands a minority of bad sites."""

    name: str = "median"

    @property
    def fewest_updates(self) -> int:
        """The median of two values is their mean."""
        return 3

    def cut(self, n: int) -> int:
        """Leave one or two values."""
        return (n - 1) // 2


def mean_of_middle(values: Sequence[NDArray[np.floating]], cut: int) -> NDArray[np.floating]:
    """Return the mean of the values that are neither among the `cut` smallest nor largest.

    Parameters
    ----------
    values : sequence of ndarray
        One array of each site, in the same shape and dtype.
    cut : int
        In [0, (n - 1) / 2].

    Returns
    -------
    ndarray
        In the dtype of the values; the mean is computed in float64. Beside it, 2^17 numbers are in
        memory at a time.
    """
    flat = [np.asarray(value).reshape(-1) for value in values]
    result = np.empty(flat[0].size, flat[0].dtype)
    step = max(1, _PIECE // len(flat))
    for start in range(0, result.size, step):
        piece = slice(start, start + step)
        rows = np.stack([value[piece] for value in flat])
        rows.sort(axis=0)
        result[piece] = rows[cut : len(flat) - cut].mean(axis=0, dtype=np.float64)
    return result.reshape(values[0].shape)
