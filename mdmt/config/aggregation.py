"""The sites that take part in a round, and their weights."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from mdmt.config.types import Positive
from mdmt.strict import Strict

__all__ = ["AggregationConfig"]


class AggregationConfig(Strict):
    """The sites that take part in a round, and their weights."""

    weighting: Literal["tasks", "examples", "uniform"] = "tasks"
    norm_layers: Literal["average", "local", "frozen"] = "average"
    heads: Literal["local", "shared"] = "local"
    fraction: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Fraction of the sites that are drawn for a round."""
    min_sites: Annotated[int, Field(gt=0)] = 1
    """Smallest number of sites to start with, and of accepted updates per round."""
    on_missing: Literal["continue", "stop"] = "continue"
    """What to do if a site does not answer in time or its update is refused."""
    join_timeout: Positive = 120.0
    """Seconds that registration waits for the sites."""
