"""Say in one line what is wrong in a YAML file: key, value, what was expected, the nearest name."""

import re
from collections.abc import Iterator
from contextlib import suppress
from typing import Any, get_args, get_origin

import yaml
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from mdmt.config.renamed import new_name
from mdmt.nearest import nearest

_WORDS = {
    "int_parsing": "expected a whole number",
    "int_type": "expected a whole number",
    "int_from_float": "expected a whole number",
    "float_parsing": "expected a number",
    "float_type": "expected a number",
    "bool_parsing": "expected true or false",
    "bool_type": "expected true or false",
    "dict_type": "expected keys and values, such as NAME: {...}",
    "model_type": "expected keys and values, such as KEY: VALUE",
    "tuple_type": "expected a list, such as [A, B]",
    "list_type": "expected a list, such as [A, B]",
}
"""Our words by pydantic's type of error."""
_PATTERNS = {
    "^[A-Za-z0-9][A-Za-z0-9_-]{0,63}$": "expected letters, digits, - and _, at most 64",
    r"^(auto|cpu|cuda(:\d+)?)$": "expected auto, cpu, cuda, or a GPU such as cuda:0",
    "^[0-9a-f]{64}$": "expected a SHA-256: 64 digits and letters a to f",
    "^SHA256:[A-Za-z0-9+/]{43}$": "expected a fingerprint, as ssh-keygen -lf prints it",
}


_SITE_TASK = re.compile(r"(sites\.[^.]+\.tasks\.([^.]+))\.kind")
"""The missing label space of a task that the federation does not have."""


def one_line(error: Exception) -> str:
    """Return the text of an error in one line."""
    return " ".join(str(error).split())


def yaml_problem(error: Exception) -> str:
    """Describe a syntax error with its line."""
    if not isinstance(error, yaml.MarkedYAMLError) or error.problem_mark is None:
        return one_line(error)
    mark = error.problem_mark
    begun = error.context_mark
    within = f" in what begins in line {begun.line + 1}" if begun is not None else ""
    hint = ": indent with spaces, not with tabs" if "'\\t'" in str(error.problem) else ""
    return f"line {mark.line + 1}, column {mark.column + 1}: {error.problem}{within}{hint}"


def explain(error: ValidationError, data: Any, model: type[BaseModel]) -> str:
    """Describe the first problem (key, value, expected value) and count the others."""
    problems = error.errors(include_url=False)
    first = problems[0]
    key, value, context = _key(first, data), first["input"], first.get("ctx", {})
    message = first["msg"].removeprefix("Value error, ")
    match first["type"]:
        case "unknown_key":
            if now := new_name(key):
                return f"{key} is now {now}"
            message = _unknown(key, message, model)
        case "missing" if (of_site := _SITE_TASK.fullmatch(key)) and of_site[2] not in _tasks(data):
            tasks = ", ".join(_tasks(data))
            key, task = of_site[1], of_site[2]
            message = f"no such task{nearest(task, _tasks(data)) or f'; the tasks are {tasks}'}"
        case "missing":
            message = "this key is needed"
        case "string_type" if isinstance(value, bool | int | float):
            message = "expected text: put it in quotes"
        case "string_pattern_mismatch":
            message = _PATTERNS.get(context["pattern"], message)
        case "too_short":
            message = f"expected at least {context['min_length']} entries"
        case "literal_error":
            message = f"expected {context['expected']}"
            message += nearest(str(value), re.findall(r"'([^']*)'", context["expected"]))
        case "unknown_kind":
            value = None  # the message names it
        case "union_tag_not_found" | "union_tag_invalid":
            key, value = f"{key}.{context['discriminator']}".replace("'", ""), context.get("tag")
            tags = context.get("expected_tags")
            message = f"expected one of {tags}" if tags else "this key is needed"
            message += nearest(str(value), re.findall(r"'([^']*)'", str(tags)))
        case other:
            message = _WORDS.get(other, message)
    shown = f" (it is {value!r})" if isinstance(value, str | int | float | bool) else ""
    # The label space of a task is checked again at each site that has the task.
    others = len({(*p["loc"][-2:], p["msg"], repr(p["input"])) for p in problems}) - 1
    more = f" [and {others} more]" if others else ""
    return f"{key}: {message}{shown}{more}" if key else f"{message}{more}"


def _tasks(data: Any) -> dict[str, Any]:
    tasks = data.get("tasks") if isinstance(data, dict) else None
    return tasks if isinstance(tasks, dict) else {}


def _unknown(key: str, message: str, model: type[BaseModel]) -> str:
    """Name the section of an unknown key that belongs into another one."""
    if "did you mean" in message:
        return message
    found = {*_places(model, key.rpartition(".")[2])} - {key}
    places = sorted(found, key=lambda place: (place.count("."), place))
    return f"no such key here; did you mean {places[0]}?" if places else message


def _places(model: type[BaseModel], wanted: str, path: str = "") -> Iterator[str]:
    """Yield the places of a key in the sections of a file."""
    for name, field in model.model_fields.items():
        here = f"{path}{name}"
        if name == wanted and path:
            yield here.replace(".space.", ".")  # a label space stands in the section of its task
        for section, step in _sections(field.annotation, ""):
            yield from _places(section, wanted, f"{here}{step}.")


def _sections(annotation: Any, step: str) -> Iterator[tuple[type[BaseModel], str]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation, step
    named = ".NAME" if get_origin(annotation) is dict else step
    for inner in get_args(annotation):
        yield from _sections(inner, named)


def _key(problem: ErrorDetails, data: Any) -> str:
    """Return the key of a problem as it is in the file.

    Pydantic's `loc` also contains members of unions and keys that a validator added, which are not
    in the file. Try all ways to omit parts of `loc`. Use the one that leads to the refused value,
    or else the one with the most parts.
    """
    loc, missing = problem["loc"], problem["type"] == "missing"
    parts = loc[:-1] if missing else loc
    ways: list[tuple[tuple[int | str, ...], Any]] = [((), data)]
    for part in parts:
        for keys, at in tuple(ways):
            with suppress(LookupError, TypeError):
                ways.append(((*keys, part), at[part]))
    best, _ = max(ways, key=lambda way: (way[1] == problem["input"], len(way[0])))
    return ".".join(map(str, (*best, loc[-1]) if missing else best))
