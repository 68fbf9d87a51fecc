"""The pydantic base of everything that is declared in YAML: configuration and tasks."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict

__all__ = ["Strict"]


class Strict(BaseModel):
    """A model that refuses unknown keys and does not change once read."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)
