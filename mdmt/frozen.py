"""The frozen arrays of a backbone. They keep their initial values and are not sent in each round.

A site builds them from the recipe, and its card names them. The server sends them, as the second
array of a message, to a site that has others or has lost them.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from mdmt.blob import Arrays, fingerprint, pack

FROZEN = "frozen"
"""Name of the array of a message that has the frozen arrays. They are never rounded."""
MISSING = "missing frozen arrays"
"""The error of a site that cannot run an order without them."""


@dataclass(frozen=True)
class FrozenArrays:
    """The frozen arrays of a run.

    Attributes
    ----------
    arrays : mapping of str to ndarray
        Empty if the whole backbone trains.
    """

    arrays: Arrays

    @cached_property
    def digest(self) -> str | None:
        """Their SHA-256; None if there are none."""
        return fingerprint(self.arrays) if self.arrays else None

    @cached_property
    def blob(self) -> bytes:
        """Their encoding."""
        return pack(self.arrays)
