"""The pydantic base class of all YAML sections, and unions that plug-ins can extend."""

from collections.abc import Callable, Iterable
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic_core import InitErrorDetails, PydanticCustomError

from mdmt.errors import ConfigError
from mdmt.nearest import nearest
from mdmt.registry import Registry
from mdmt.untrusted import printable

_FEW = 12
"""Largest number of keys that a message lists."""


def _distinct(names: tuple[str, ...]) -> tuple[str, ...]:
    if not names:
        raise ValueError("expected at least one name")
    for name in names:
        if not name or name != name.strip():
            raise ValueError(f"expected names without spaces around them, not {name!r}")
        if names.count(name) > 1:
            raise ValueError(f"the name {name} is given twice")
    return names


Names = Annotated[tuple[str, ...], AfterValidator(_distinct)]
"""Names of labels: at least one, none empty, none twice."""


Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]{0,63}$")]
"""Letters, digits, ``-`` and ``_``: names become folder and metric names."""
Short = Annotated[str, Field(max_length=128), AfterValidator(printable)]
"""A line of text from another party. It is safe to show."""
Probability = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0)]
NonNegative = Annotated[float, Field(ge=0)]


def named(value: Any) -> Any:
    """Convert ``adam`` to ``{name: adam}``."""
    return {"name": value} if isinstance(value, str) else value


def increasing(value: tuple[float, float]) -> tuple[float, float]:
    """Validate a range."""
    if not value[0] < value[1]:
        raise ValueError(f"expected [low, high] with low < high, not {list(value)}")
    return value


class Strict(BaseModel):
    """An immutable model that refuses unknown keys."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _known_keys(cls, value: Any) -> Any:
        if isinstance(value, dict):
            check_keys(value, cls.model_fields)
        return value


def check_keys(value: dict[Any, Any], known: Iterable[str]) -> None:
    """Refuse unknown keys. The error names the most similar known key.

    Raises
    ------
    ValidationError
        Has one entry for each unknown key.
    """
    known = list(known)
    problems: list[InitErrorDetails] = []
    for key in value:
        if key not in known:
            text = f"no such key{nearest(str(key), known)}"
            if "?" not in text and len(known) <= _FEW:
                text += f"; the keys are {', '.join(known)}"
            kind = PydanticCustomError("unknown_key", text)
            problems.append({"type": kind, "loc": (str(key),), "input": value[key]})
    if problems:
        raise ValidationError.from_exception_data("keys", problems)


def by_kind(registry: Registry[Any], key: str = "kind") -> Callable[[Any], Any]:
    """Return a validator that converts a mapping to the registered model that its `key` names.

    For an unknown name the error is at this key and has the text of the registry.
    """

    def read(value: Any) -> Any:
        if not isinstance(value, dict):
            return value  # a model already; the field's own type refuses anything else
        problem: InitErrorDetails = {"type": "missing", "loc": (key,), "input": value}
        if key in value:
            try:
                model = registry[str(value[key])]
            except ConfigError as error:
                text = str(error).replace("{", "{{").replace("}", "}}")
                problem["type"] = PydanticCustomError("unknown_kind", text)
                problem["input"] = value[key]
            else:
                return model.model_validate(value)
        raise ValidationError.from_exception_data(registry.what, [problem])

    return read
