"""The cosine between the updates of two sites: whether they move the backbone in one direction.

Each array is represented by at most 2,048 of its numbers, always the same ones, so that one short
vector of a site is in memory, not its update. Arrays up to this size are complete. The dot product
of a sampled array is multiplied by its size over the sample, so that it is not biased.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from functools import lru_cache
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from mdmt.blob import Arrays

_SAMPLE = 2048
"""Numbers of one array. The error of a cosine is then about .01 for a resnet18."""

Direction = NDArray[np.float64]
"""A sample of one update."""


def direction(update: Arrays, sent: Arrays, optimised: Collection[str]) -> Direction:
    """Return a sample of θ_s - θ_r.

    Parameters
    ----------
    update, sent : mapping of str to ndarray
        Arrays that the site sent back, and the arrays that it got.
    optimised : collection of str
        Names of the arrays that count: see `State.optimised`.

    Returns
    -------
    ndarray, float64
        The same numbers for every site.
    """
    parts = [np.zeros(0)]
    for name in sorted(set(update) & set(optimised)):
        after, before = update[name].reshape(-1), sent[name].reshape(-1)
        where, scale = _positions(after.size), 1.0
        if where is not None:
            scale = np.sqrt(after.size / len(where))
            after, before = after[where], before[where]
        parts.append(scale * np.subtract(after, before, dtype=np.float64))
    return np.concatenate(parts)


@lru_cache(maxsize=1024)
def _positions(size: int) -> NDArray[np.intp] | None:
    """Return which numbers of an array of this size count, ascending; None: all."""
    if size <= _SAMPLE:
        return None
    return np.sort(np.random.default_rng(size).integers(size, size=_SAMPLE))


def cosines(directions: Mapping[str, Direction]) -> dict[str, dict[str, float | None]]:
    """Return the cosine of each pair of sites: first site → second site → cosine, both sorted.

    It is None if one of both updates is zero.
    """
    found: dict[str, dict[str, float | None]] = {}
    norms = {site: float(np.linalg.norm(of)) for site, of in directions.items()}
    for one, other in combinations(sorted(directions), 2):
        lengths, value = norms[one] * norms[other], None
        if lengths > 0:
            value = round(float(directions[one] @ directions[other]) / lengths, 4)
        found.setdefault(one, {})[other] = value
    return found
