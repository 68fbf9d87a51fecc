"""How arrays are written on the wire."""

from __future__ import annotations

from typing import Literal

from mdmt.strict import Strict

__all__ = ["Encoding", "WireConfig"]

Encoding = Literal["float32", "float16", "int8"]


class WireConfig(Strict):
    """How the backbone travels; `float32` is exact, anything else a delta that loses a little.

    What a delta loses is not lost: it is added to the next one (error feedback).
    """

    up: Encoding = "float32"
    """Site to server: what training changed."""
    down: Encoding = "float32"
    """Server to site: what the round changed, for sites that have the one before."""

    @property
    def exact(self) -> bool:
        """Whether nothing is lost either way, so that neither side has to remember anything."""
        return self.up == self.down == "float32"
