"""The pydantic base of every configuration model."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict

__all__ = ["Strict", "named"]


class Strict(BaseModel):
    """A model that refuses unknown keys and does not change once read."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


def named(value: Any) -> Any:
    """Let ``adam`` stand for ``{name: adam}`` where an option may have parameters."""
    return {"name": value} if isinstance(value, str) else value
