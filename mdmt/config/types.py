"""Types that several configuration models use."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field

__all__ = ["Name", "NonNegative", "Positive", "Probability", "named"]

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]{0,63}$")]
"""Letters, digits, ``-`` and ``_``: names become folder and metric names."""
Probability = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0)]
NonNegative = Annotated[float, Field(ge=0)]


def named(value: Any) -> Any:
    """Let ``adam`` stand for ``{name: adam}`` where an option may have parameters."""
    return {"name": value} if isinstance(value, str) else value
