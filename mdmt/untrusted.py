"""Text that another party wrote: bounded, and without control characters.

A terminal obeys escape sequences, so no such text may reach one. Messages refuse it when they are
read (`Short`); a refusal that quotes such text escapes it (`shown`).
"""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, StringConstraints

LONGEST = 128
"""Largest number of characters of a name that a site sends."""


def printable(text: str) -> str:
    """Validate that a text has only visible characters and spaces.

    Raises
    ------
    ValueError
        There is a control character, a line break, or a mark that changes the direction of text.
    """
    if not text.isprintable():
        raise ValueError("expected text without control characters")
    return text


Short = Annotated[str, StringConstraints(max_length=LONGEST), AfterValidator(printable)]
"""A short line of text from another party."""


def shown(text: str, longest: int = 500) -> str:
    r"""Return a text as one line of at most `longest` characters that is safe to show.

    Examples
    --------
    >>> shown("not\na \x1b[31msite")
    'not a \\x1b[31msite'
    """
    words = " ".join(text[: 4 * longest].split())
    safe = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in words)
    return safe if len(safe) <= longest else f"{safe[: longest - 1]}…"
