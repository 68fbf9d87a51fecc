"""What a check says."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

__all__ = ["Check"]


@dataclass(frozen=True)
class Check:
    """One line of `mdmt site check`. It may name paths: it is for the site's own machine."""

    name: str
    outcome: Literal["pass", "warn", "fail"]
    found: str
    remedy: str = ""
