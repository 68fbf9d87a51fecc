"""Random seeds derived from names, so that the order of execution does not matter."""

from __future__ import annotations

import hashlib


def derive_seed(*parts: int | str) -> int:
    """Derive a seed from names and numbers.

    Parameters
    ----------
    *parts : int or str
        For example ``(federation.seed, "train", site, round)``.

    Returns
    -------
    int
        In ``[0, 2**63)``. Equal parts give equal seeds on every machine.

    Examples
    --------
    >>> derive_seed(0, "head", "severity") == derive_seed(0, "head", "severity")
    True
    >>> derive_seed(0, "a", 1) == derive_seed(0, "a", 2)
    False
    """
    text = "\x1f".join(f"{type(part).__name__}:{part}" for part in parts)
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1
