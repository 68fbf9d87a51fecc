"""How arrays are encoded in messages."""

from __future__ import annotations

from typing import Literal

from mdmt.strict import Strict

__all__ = ["WireConfig"]


class WireConfig(Strict):
    """Encoding of arrays in messages. `float32` is exact; the others round.

    Small arrays and running statistics are always float32.
    """

    up: Literal["float32", "float16", "int8"] = "float32"
    """Site to server. float16 and int8 encode the difference from the received array."""
    down: Literal["float32", "float16"] = "float32"
    """Server to site."""
