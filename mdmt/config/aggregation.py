"""How the server combines what sites send."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field

from mdmt.config.types import Positive, named
from mdmt.strict import Strict

__all__ = ["AggregationConfig", "FedAvg", "FedAvgM", "FedOpt", "FedProx"]


class FedAvg(Strict):
    """The weighted mean."""

    name: Literal["fedavg"] = "fedavg"


class FedProx(Strict):
    """FedAvg with a proximal term μ/2·‖θ_s - θ_r‖² at the sites (Li et al. 2018)."""

    name: Literal["fedprox"] = "fedprox"
    mu: Positive = 0.01


class FedAvgM(Strict):
    """FedAvg with server momentum (Hsu et al. 2019)."""

    name: Literal["fedavgm"] = "fedavgm"
    lr: Positive = 1.0
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9


class FedOpt(Strict):
    """Adam or Yogi at the server (Reddi et al. 2020)."""

    name: Literal["fedadam", "fedyogi"]
    lr: Positive = 0.01
    beta_1: Annotated[float, Field(ge=0, lt=1)] = 0.9
    beta_2: Annotated[float, Field(ge=0, lt=1)] = 0.99
    tau: Positive = 1e-3


Strategy = Annotated[
    Annotated[FedAvg | FedProx | FedAvgM | FedOpt, Field(discriminator="name")],
    BeforeValidator(named),
]


class AggregationConfig(Strict):
    """How the server combines what sites send."""

    strategy: Strategy = FedAvg()
    weighting: Literal["tasks", "examples", "uniform"] = "tasks"
    norm_layers: Literal["average", "local", "frozen"] = "average"
    heads: Literal["local", "shared"] = "local"
    fraction: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Share of the sites drawn for a round."""
    min_sites: Annotated[int, Field(gt=0)] = 1
    """Fewest sites to start with, and fewest accepted updates for a round to count."""
    on_missing: Literal["continue", "stop"] = "continue"
    """What to do when a site of the round does not answer in time or is refused."""
    join_timeout: Positive = 120.0
    """Seconds the roll call waits for the sites."""
