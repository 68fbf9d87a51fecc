"""Keys that version 0.1.0 named differently.

A user's file that holds one of them is refused with the new name. A run or release that 0.1.0 wrote
is read with its keys renamed.
"""

from __future__ import annotations

from typing import Any

__all__ = ["new_name", "upgrade"]

_RENAMED = {
    "aggregation.strategy": "algorithm",
    "policy.tell_counts": "policy.report_counts",
    "policy.tell_histogram": "policy.report_histogram",
}
"""Former key, new key; both start from the same mapping, wherever that stands in a file."""


def new_name(key: str) -> str | None:
    """The key that replaces `key` (from the top of a file); None if it was not renamed.

    Examples
    --------
    >>> new_name("sites.clinic.policy.tell_counts")
    'sites.clinic.policy.report_counts'
    """
    for former, now in _RENAMED.items():
        if f".{key}".endswith(f".{former}"):
            return key.removesuffix(former) + now
    return None


def upgrade(data: Any) -> Any:
    """Rename the keys of a configuration that 0.1.0 wrote; that of a later version stays equal."""
    if not isinstance(data, dict):
        return data
    data = {key: upgrade(value) for key, value in data.items()}
    for former, now in _RENAMED.items():
        section, _, key = former.rpartition(".")
        if isinstance(data.get(section), dict) and key in data[section]:
            value = data[section].pop(key)
            target, _, name = now.rpartition(".")
            (data[target] if target else data)[name] = value
    return data
