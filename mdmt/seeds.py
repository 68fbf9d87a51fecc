"""Random seeds derived from names, so that order of execution never matters."""

from __future__ import annotations

import hashlib

__all__ = ["derive_seed"]


def derive_seed(*parts: int | str) -> int:
    """Turn a path of names into a seed.

    Parameters
    ----------
    *parts : int or str
        For example ``(federation.seed, "train", site, round)``.

    Returns
    -------
    int
        In ``[0, 2**63)``; equal parts give equal seeds on every machine.

    Examples
    --------
    >>> derive_seed(0, "head", "severity") == derive_seed(0, "head", "severity")
    True
    >>> derive_seed(0, "a", 1) == derive_seed(0, "a", 2)
    False
    """
    text = "\x1f".join(f"{type(part).__name__}:{part}" for part in parts)
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1
