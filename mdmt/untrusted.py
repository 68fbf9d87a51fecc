"""Text that another party wrote is bounded and has no control characters wherever it is shown.

A terminal obeys escape sequences. Messages refuse such text when they are read
(`mdmt.strict.Short`). A refusal, which can quote a message, escapes it (`mdmt.errors.Refused`).
"""

from __future__ import annotations


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
