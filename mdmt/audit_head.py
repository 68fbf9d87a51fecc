"""The head of a site's audit log in its replies.

The launcher of a deployed site adds the SHA-256 of the log's line about a reply to this reply: in
a record of its own, or at the end of the text of an error. A server that keeps it can prove later
that the log had this line, and so every line before it. What Flower answers in the stead of a site
has no head.
"""

from __future__ import annotations

import re
from typing import Any

RECORD, KEY = "audit", "head"
"""Where the head is in a Flower message."""
_HASH = re.compile(r"[0-9a-f]{64}")
_IN_TEXT = re.compile(r" \[audit ([0-9a-f]{64})\]$")


def with_head(reason: str, head: str) -> str:
    """Return the text of an error with a head."""
    return f"{reason} [audit {head}]"


def without_head(reason: str) -> str:
    """Return the text of an error as it was before `with_head`."""
    return _IN_TEXT.sub("", reason)


def head_of(reply: Any) -> str | None:
    """Return the head in a Flower message, or None if it has none."""
    if reply.has_error():
        found = _IN_TEXT.search(str(reply.error.reason))
        return found[1] if found else None
    records = reply.content.config_records
    head = str(records[RECORD].get(KEY, "")) if RECORD in records else ""
    return head if _HASH.fullmatch(head) else None
