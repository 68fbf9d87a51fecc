"""The pydantic base of everything that is declared in YAML, and open unions of such models."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic_core import InitErrorDetails, PydanticCustomError

from mdmt.errors import ConfigError
from mdmt.registry import Registry

__all__ = ["Strict", "by_kind"]


class Strict(BaseModel):
    """A model that refuses unknown keys and does not change once read."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


def by_kind(registry: Registry[Any]) -> Callable[[Any], Any]:
    """Make a validator that turns a mapping into the registered model that its ``kind`` names.

    An unknown kind is an error at the key ``kind``, with the text of the registry.
    """

    def read(value: Any) -> Any:
        if not isinstance(value, dict):
            return value  # a model already; the field's own type refuses anything else
        problem: InitErrorDetails = {"type": "missing", "loc": ("kind",), "input": value}
        if "kind" in value:
            try:
                model = registry[str(value["kind"])]
            except ConfigError as error:
                text = str(error).replace("{", "{{").replace("}", "}}")
                problem["type"] = PydanticCustomError("unknown_kind", text)
            else:
                return model.model_validate(value)
        raise ValidationError.from_exception_data(registry.what, [problem])

    return read
