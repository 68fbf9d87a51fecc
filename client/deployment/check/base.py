"""The result of a check."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

__all__ = ["Check"]


@dataclass(frozen=True)
class Check:
    """One line of `mdmt site check`. It may name paths: only the site sees it."""

    name: str
    outcome: Literal["pass", "warn", "fail"]
    found: str
    remedy: str = ""
