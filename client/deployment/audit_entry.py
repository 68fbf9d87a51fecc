"""An audit entry: names, shapes and numbers of a message, never the values of an array."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from mdmt import blob
from mdmt.messages import content_bytes, content_values
from mdmt.strict import Strict

if TYPE_CHECKING:
    from flwr.app import Array, Message, RecordDict

ArrayFacts = tuple[str, tuple[int, ...], int]
_SHORT = 200
"""Longest text in an entry of what our own client does not send."""


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
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
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


def _order(asked: Message | None) -> dict[str, Any]:
    """Federation, run and round, if the server's message names them."""
    if asked is None or not asked.has_content():
        return {}
    order = _parse_object(_text(asked.content, "config", "order")) or {}
    recipe = _parse_object(str(order.get("recipe"))) or {}
    names = {"federation": recipe.get("name"), "run": order.get("run")}
    named = {key: value[:_SHORT] for key, value in names.items() if isinstance(value, str)}
    number = _number(order.get("round"))
    return named if number is None else named | {"round": number}


def _number(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _text(content: RecordDict, record: str, key: str) -> str:
    records = content.config_records
    return str(records[record].get(key, "")) if record in records else ""
