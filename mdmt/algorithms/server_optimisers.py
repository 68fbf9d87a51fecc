"""Server optimisers: the mean update of a round is a pseudo-gradient.

Δ_r = Σ_s w_s θ_s - θ_r. Running statistics and shared heads get the plain weighted mean.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import Annotated

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from mdmt.algorithms.base import State, algorithms
from mdmt.algorithms.fedavg import FedAvg
from mdmt.blob import Arrays

Vector = NDArray[np.float64]
Rate = Annotated[float, Field(gt=0)]
Decay = Annotated[float, Field(ge=0, lt=1)]


class _ServerOptimiser(FedAvg):
    """θ_{r+1} = θ_r + step(Δ_r), in float64."""

    @abstractmethod
    def step(self, delta: Vector, memory: dict[str, Vector]) -> Vector:
        """Return the step of one array. Update its `memory` in place; it is empty at first."""

    def combine(self, state: State, mean: Arrays) -> State:
        """Take a step from θ_r in the direction of the pseudo-gradient."""
        arrays, memory = dict(mean), dict[str, Vector]()
        for name in state.optimised:
            theta = state.arrays[name].astype(np.float64)
            end = f".{name}"
            own = {k.removesuffix(end): v for k, v in state.memory.items() if k.endswith(end)}
            step = self.step(mean[name] - theta, own)
            arrays[name] = (theta + step).astype(state.arrays[name].dtype)
            memory |= {f"{key}{end}": value for key, value in own.items()}
        return state.updated(arrays, memory)


@algorithms.register("fedavgm")
class FedAvgM(_ServerOptimiser):
    """Server momentum (Hsu et al. 2019): m ← β·m + Δ; the step is η·m."""

    name: str = "fedavgm"
    lr: Rate = 1.0
    momentum: Decay = 0.9

    def step(self, delta: Vector, memory: dict[str, Vector]) -> Vector:
        """Compute η·m."""
        memory["m"] = self.momentum * memory.get("m", np.zeros_like(delta)) + delta
        return self.lr * memory["m"]


class _Adaptive(_ServerOptimiser):
    """Algorithm 2 of Reddi et al. 2020: no bias correction, and v starts at τ²."""

    lr: Rate = 0.01
    beta_1: Decay = 0.9
    beta_2: Decay = 0.99
    tau: Rate = 1e-3

    @abstractmethod
    def second_moment(self, v: Vector, square: Vector) -> Vector:
        """Compute the next v from the last one and Δ²."""

    def step(self, delta: Vector, memory: dict[str, Vector]) -> Vector:
        """Compute η·m / (√v + τ)."""
        m = memory.get("m", np.zeros_like(delta))
        v = memory.get("v", np.full_like(delta, self.tau**2))
        memory["m"] = self.beta_1 * m + (1 - self.beta_1) * delta
        memory["v"] = self.second_moment(v, delta**2)
        return self.lr * memory["m"] / (np.sqrt(memory["v"]) + self.tau)


@algorithms.register("fedadam")
class FedAdam(_Adaptive):
    """Adam at the server: v ← β₂·v + (1 - β₂)·Δ²."""

    name: str = "fedadam"

    def second_moment(self, v: Vector, square: Vector) -> Vector:
        """Compute the moving average of Δ²."""
        return self.beta_2 * v + (1 - self.beta_2) * square


@algorithms.register("fedyogi")
class FedYogi(_Adaptive):
    """Yogi at the server: v ← v - (1 - β₂)·Δ²·sign(v - Δ²)."""

    name: str = "fedyogi"

    def second_moment(self, v: Vector, square: Vector) -> Vector:
        """Move v towards Δ², by an amount that does not depend on v."""
        return v - (1 - self.beta_2) * square * np.sign(v - square)
