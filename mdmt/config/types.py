"""Types that several configuration models use."""

from __future__ import annotations

from contextlib import suppress
from typing import Annotated, Any

from pydantic import Field, model_validator

from mdmt.errors import ConfigError
from mdmt.strict import Strict, check_keys
from mdmt.tasks import AnyTask, task_kinds

__all__ = ["BesideSpace", "Name", "NonNegative", "Positive", "Probability", "named"]

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]{0,63}$")]
"""Letters, digits, ``-`` and ``_``: names become folder and metric names."""
Probability = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0)]
NonNegative = Annotated[float, Field(ge=0)]


def named(value: Any) -> Any:
    """Convert ``adam`` to ``{name: adam}``."""
    return {"name": value} if isinstance(value, str) else value


class BesideSpace(Strict):
    """A section of YAML that has the keys of a label space and other keys."""

    space: AnyTask

    @model_validator(mode="before")
    @classmethod
    def _flat(cls, value: Any) -> Any:
        """Separate the keys of the label space from the other keys."""
        if not isinstance(value, dict) or "space" in value:
            return value
        with suppress(ConfigError):  # an unknown kind is reported by the field `space`
            known = task_kinds[str(value.get("kind"))].model_fields
            check_keys(value, (*cls.model_fields, *known))
        own = {key: value[key] for key in value if key in cls.model_fields}
        return own | {"space": {key: value[key] for key in value if key not in own}}
