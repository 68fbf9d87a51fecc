"""What the configuration models share."""

from __future__ import annotations

from typing import Any

from mdmt.strict import Strict

__all__ = ["Strict", "named"]


def named(value: Any) -> Any:
    """Let ``adam`` stand for ``{name: adam}`` where an option may have parameters."""
    return {"name": value} if isinstance(value, str) else value
