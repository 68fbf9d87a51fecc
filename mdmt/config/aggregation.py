"""Whose updates the server combines, and how much each counts."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from mdmt.config.types import Positive
from mdmt.strict import Strict

__all__ = ["AggregationConfig"]


class AggregationConfig(Strict):
    """Whose updates the server combines, and how much each counts."""

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
    """Seconds that registration waits for the sites."""
