"""Shares of a whole with a largest share."""

from __future__ import annotations

import math
from collections.abc import Mapping


def limit_shares(shares: Mapping[str, float], largest: float | None) -> dict[str, float]:
    """Cut shares above a limit, and scale the others so that the sum stays 1 (water-filling).

    Parameters
    ----------
    shares : mapping of str to float
        Positive; their sum is 1.
    largest : float or None
        Largest share. If there are too few shares for it, all become equal. None is no limit.

    Returns
    -------
    dict of str to float
        No share is above the limit. The shares that are not cut keep their ratios. If no share is
        above the limit, they do not change.

    Examples
    --------
    >>> limit_shares({"a": 0.7, "b": 0.2, "c": 0.1}, 0.4)  # b: 0.2 * 0.6 / 0.3 is cut too
    {'a': 0.4, 'b': 0.4, 'c': 0.2}
    """
    if largest is None or max(shares.values(), default=0.0) <= largest:
        return dict(shares)
    if largest * len(shares) <= 1.0 + 1e-9:
        return dict.fromkeys(shares, 1.0 / len(shares))
    order = sorted(shares.values(), reverse=True)
    cut, factor = 0, 1.0
    while order[cut] * factor > largest:
        cut += 1
        factor = (1.0 - cut * largest) / math.fsum(order[cut:])
    bound = order[cut]
    return {
        name: largest if share > bound else min(share * factor, largest)
        for name, share in shares.items()
    }
