"""Updates and metrics as integers, so that masks cancel exactly.

A site sends v = round(w·(θ_s - θ_r)·2^k) of each weight, modulo 2^32, and the server adds.

*The sum does not overflow.* Let N be the number of sites, and B·2^k ≥ M the largest |v|, which
clipping enforces. `largest_exponent` chooses k so that N·B·2^k < 2^31. Then |Σ v| ≤ N·M ≤ N·B·2^k
< 2^31, so the sum modulo 2^32, read as a number in two's complement, is Σ v. It does not depend on
the order of the sites, and masks that add up to 0 modulo 2^32 do not change it.

*The error is small.* Rounding changes each v by at most 1/2, so Σ v/2^k differs from
Σ w·(θ_s - θ_r) by at most N/2^(k+1), and by three float32 roundings of each w·(θ_s - θ_r). With
B = 1 the first part is 3e-9 for 3 sites, 4e-8 for 10, and 8e-7 for 50.

Metrics are integers modulo 2^64, with the same argument.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

Words = NDArray[np.uint32]
_HALF = 2**31
_PIECE = 2**15
"""Numbers that are decoded in one step."""
_METRIC_EXPONENT = 20
"""A metric is rounded to a multiple of 2^-20."""


def largest_exponent(sites: int, bound: float) -> int:
    """Return the largest k with sites·bound·2^k < 2^31.

    Parameters
    ----------
    sites : int
        N, at least 1.
    bound : float
        B, largest |w·Δ| of one weight, in (0, 1024].
    """
    product = Fraction(bound) * sites
    exponent = 31 - math.floor(math.log2(product)) + 1
    while product * Fraction(2) ** exponent >= _HALF:
        exponent -= 1
    return exponent


@dataclass(frozen=True)
class FixedPoint:
    """The integers of a round.

    Attributes
    ----------
    sites : int
        N.
    bound : float
        B.
    exponent : int
        k.
    """

    sites: int
    bound: float
    exponent: int

    @cached_property
    def limit(self) -> np.float32:
        """M: the largest float32 that is not above B·2^k, and is an integer."""
        exact = math.floor(Fraction(self.bound) * Fraction(2) ** self.exponent)
        nearest = np.float32(exact)
        return nearest if int(nearest) <= exact else np.nextafter(nearest, np.float32(0))

    def encode(
        self,
        trained: NDArray[np.float32],
        received: NDArray[np.float32],
        weight: float,
        out: Words,
    ) -> int:
        """Write v of each weight to `out`.

        Parameters
        ----------
        trained, received : ndarray, float32, (n,)
            θ_s and θ_r.
        weight : float
            w.
        out : ndarray, uint32, (n,)

        Returns
        -------
        int
            Number of weights that were clipped.

        Raises
        ------
        ValueError
            An update is not finite.
        """
        with np.errstate(over="ignore", invalid="ignore"):
            change = trained - received
            change *= np.float32(weight * 2.0**self.exponent)
        if not np.isfinite(change).all():
            raise ValueError("not finite")
        np.rint(change, out=change)
        clipped = int(np.count_nonzero(np.abs(change) > self.limit))
        np.clip(change, -self.limit, self.limit, out=change)
        out.view(np.int32)[:] = change
        return clipped

    def decode(self, total: Words, received: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return θ_r + Σ v/2^k, float32, in the shape of `received`.

        Raises
        ------
        ValueError
            |Σ v| is larger than N·M: not all masks cancelled.
        """
        numbers, start = total.reshape(-1).view(np.int32), received.reshape(-1)
        largest = self.sites * int(self.limit)
        if max(int(numbers.max(initial=0)), -int(numbers.min(initial=0))) > largest:
            raise ValueError("larger than all updates together")
        result, step = np.empty(numbers.shape, np.float32), 2.0**-self.exponent
        for first in range(0, numbers.size, _PIECE):
            piece = slice(first, first + _PIECE)
            result[piece] = numbers[piece] * step + start[piece]
        return result.reshape(received.shape)


def encode_metrics(values: Sequence[float], sites: int) -> NDArray[np.uint64]:
    """Return numbers as integers modulo 2^64, clipped so that the sum of `sites` fits."""
    limit = 2**62 // sites
    scaled = (round(Fraction(value) * 2**_METRIC_EXPONENT) for value in values)
    return np.array([min(max(n, -limit), limit) % 2**64 for n in scaled], np.uint64)


def decode_metrics(total: NDArray[np.uint64]) -> list[float]:
    """Return the numbers of a sum of `encode_metrics`.

    Raises
    ------
    ValueError
        A sum is larger than is possible: not all masks cancelled.
    """
    numbers: list[Any] = total.view(np.int64).tolist()
    if any(abs(number) > 2**62 for number in numbers):
        raise ValueError("larger than all metrics together")
    return [number / 2**_METRIC_EXPONENT for number in numbers]
