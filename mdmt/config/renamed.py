"""Keys that have another name in version 0.1.0.

A user's file with such a key is refused, and the error gives the new name. In a run or release of
0.1.0 the keys are renamed when it is read.
"""

from typing import Any

SAVED = {"saved": True}
"""Validation context of a run or release: 0.1.0 accepted combinations that are errors today."""

_RENAMED = {
    "aggregation.strategy": "algorithm",
    "policy.tell_counts": "policy.report_counts",
    "policy.tell_histogram": "policy.report_histogram",
}
"""New key by former key. Both start at the same mapping, anywhere in a file."""


def new_name(key: str) -> str | None:
    """Return the key that replaces `key` (from the top of a file); None if it was not renamed.

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
    """Rename the keys of a configuration of 0.1.0. Do not change one of a later version.

    0.1.0 could also send int8 to the sites. Such a run is shown with float16, the nearest setting.
    """
    if not isinstance(data, dict):
        return data
    data = {key: upgrade(value) for key, value in data.items()}
    for former, now in _RENAMED.items():
        section, _, key = former.rpartition(".")
        if isinstance(data.get(section), dict) and key in data[section]:
            value = data[section].pop(key)
            target, _, name = now.rpartition(".")
            (data[target] if target else data)[name] = value
    if isinstance(wire := data.get("wire"), dict) and wire.get("down") == "int8":
        data["wire"] = wire | {"down": "float16"}
    return data
