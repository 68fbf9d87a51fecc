"""An audit entry: names, shapes and numbers of a message, never the values of an array."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from client.deployment.recipes import recipe_hash
from mdmt import blob
from mdmt.messages import content_bytes, content_values, order_hash
from mdmt.strict import Strict

if TYPE_CHECKING:
    from flwr.app import Array, Message, RecordDict

ArrayFacts = tuple[str, tuple[int, ...], int]
_SHORT = 200
"""Longest text in an entry of what our own client does not send."""
_LONGEST_ORDER = 2**16
"""Characters of an order's values in an entry; a server can send any number."""


class Entry(Strict):
    """A line of the audit log."""

    time: str
    """UTC, when the line was written."""
    kind: str
    """``query``, ``train`` or ``evaluate``."""
    federation: str | None = None
    run: str | None = None
    flower_run: int
    """Flower's own number of the run."""
    round: int | None = None
    order: str | None = None
    """SHA-256 of the server's message (`mdmt.messages.order_hash`)."""
    recipe: str | None = None
    """SHA-256 of the recipe, which is in the site's folder ``recipes``."""
    asked: dict[str, Any] = {}
    """The other values of the order, such as coefficients and rate factor."""
    error: str | None = None
    """Text of an error, which has no report."""
    arrays: dict[str, ArrayFacts] = {}
    """Name → type, shape, bytes."""
    beside: dict[str, str] = {}
    """Headers of blobs in lines that mdmt 0.1.0 wrote."""
    report: dict[str, Any] | None = None
    """As sent (`mdmt.messages`)."""
    other: dict[str, str] = {}
    """What our own client does not send."""
    bytes: int
    """Of arrays and texts, without Flower's envelope."""
    recovered: str | None = None
    """What a crash left before this line."""
    previous: str
    """SHA-256 of the line before."""


def describe(message: Message, asked: Message | None, **facts: str) -> Entry:
    """Describe a reply, without decoding its arrays.

    Parameters
    ----------
    message : Message
    asked : Message or None
        The message that it replies to.
    **facts
        ``previous`` and, after a crash, ``recovered``.
    """
    order = _order(asked)
    known: dict[str, Any] = {
        "time": datetime.now(UTC).isoformat(timespec="milliseconds"),
        "kind": message.metadata.message_type,
        "flower_run": message.metadata.run_id,
        **order,
        **facts,
    }
    if message.has_error():
        reason = str(message.error.reason)
        return Entry(**known, error=reason, bytes=len(reason.encode()))
    content = message.content
    report = _parse_object(_text(content, "report", "json"))
    if report is not None:
        known.setdefault("round", _number(report.get("round")))
    return Entry(
        **known,
        arrays={
            name: facts
            for record, arrays in content.array_records.items()
            for name, array in arrays.items()
            for name, facts in _describe_arrays(f"{record}/{name}", array)
        },
        report=report,
        other={
            name: _short(value)
            for name, value in content_values(content)
            if name != "report/json" or report is None
        },
        bytes=content_bytes(content),
    )


def _describe_arrays(name: str, array: Array) -> Iterator[tuple[str, ArrayFacts]]:
    """Yield the arrays of a blob; another client sends plain arrays."""
    try:
        yield from blob.describe(array.data).items()
    except ValueError:
        yield name, (array.dtype, tuple(array.shape), len(array.data))


def _parse_object(text: str | bytes) -> dict[str, Any] | None:
    """Parse a JSON object; None for anything else. Either side may have written anything."""
    try:
        found = json.loads(text)
        json.dumps(found, allow_nan=False)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def _short(value: Any) -> str:
    """Write a value, or only its size if it is long or binary."""
    long = isinstance(value, bytes | list) or len(str(value)) > _SHORT
    return f"{type(value).__name__} of {len(value)}" if long else str(value)


def asked_recipe(asked: Message | None) -> str | None:
    """Return the text of the recipe in the server's message."""
    recipe = (_read_order(asked) or {}).get("recipe")
    return recipe if isinstance(recipe, str) else None


def _order(asked: Message | None) -> dict[str, Any]:
    """Describe the server's message."""
    if asked is None or not asked.has_content():
        return {}
    content, order = asked.content, _read_order(asked) or {}
    arrays = content.array_records.get("arrays")
    data = arrays[blob.BLOB].data if arrays is not None and blob.BLOB in arrays else b""
    text, kind = _text(content, "config", "order"), asked.metadata.message_type
    known: dict[str, Any] = {"order": order_hash(kind, text, data)}
    if (recipe := order.pop("recipe", None)) is not None and isinstance(recipe, str):
        known["recipe"] = recipe_hash(recipe)
        name = (_parse_object(recipe) or {}).get("name")
        if isinstance(name, str):
            known["federation"] = name[:_SHORT]
    if isinstance(order.get("run"), str):
        known["run"] = order.pop("run")[:_SHORT]
    if (number := _number(order.get("round"))) is not None:
        known["round"] = number
        del order["round"]
    long = len(json.dumps(order)) > _LONGEST_ORDER
    return known | {"asked": {"characters": len(text)} if long else order}


def _read_order(asked: Message | None) -> dict[str, Any] | None:
    if asked is None or not asked.has_content():
        return None
    return _parse_object(_text(asked.content, "config", "order"))


def _number(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _text(content: RecordDict, record: str, key: str) -> str:
    records = content.config_records
    return str(records[record].get(key, "")) if record in records else ""
