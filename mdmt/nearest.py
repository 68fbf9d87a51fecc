"""Suggest the name that a user probably meant."""

from collections.abc import Iterable
from difflib import get_close_matches

_CUTOFF = 0.7
"""Least similarity (`difflib`), from 0 to 1."""


def nearest(name: str, known: Iterable[object]) -> str:
    """Return ``; did you mean X?`` for the most similar known name; empty if none is similar.

    Examples
    --------
    >>> nearest("adan", ["sgd", "adam"]), nearest("adan", ["sgd"])
    ('; did you mean adam?', '')
    """
    by_key = {str(other).casefold(): str(other) for other in known}
    near = get_close_matches(name.casefold(), by_key, n=1, cutoff=_CUTOFF)
    return f"; did you mean {by_key[near[0]]}?" if near else ""
