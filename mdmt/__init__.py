"""Federated multi-dataset multi-task (MDMT) learning: the method, in plain PyTorch.

The functions of `mdmt.api` are names of this package. They are loaded when they are first used, so
that ``import mdmt`` is fast.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mdmt.api import (
        Run,
        Study,
        load_config,
        load_release,
        simulate,
        study,
        validate,
    )

__version__ = "0.3.0"
__all__ = [
    "Run",
    "Study",
    "load_config",
    "load_release",
    "simulate",
    "study",
    "validate",
]


def __getattr__(name: str) -> Any:
    """Load a name of `mdmt.api`."""
    if name not in __all__:
        raise AttributeError(f"module mdmt has no attribute {name}")
    from mdmt import api

    return getattr(api, name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
