"""Comparisons of models over the cells of a study; `mdmt.results.delong` compares over patients.

A *cell* is one training run (a fold and a seed). Tests over cells say how stable a difference is
when training is repeated; tests over patients say whether it would hold in other patients like
these. They answer different questions and are never mixed.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np


class Mean(NamedTuple):
    """Mean of n values, its standard error s/√n and Student's 95 % interval, which need n > 1."""

    value: float
    error: float | None
    low: float | None
    high: float | None
    n: int

    def __str__(self) -> str:
        if self.n == 0:
            return "undefined"
        text = f"{self.value:.3f}" + ("" if self.error is None else f" ± {self.error:.3f}")
        return text.replace("-", "−")

    @property
    def interval(self) -> str:
        """The interval in brackets."""
        if self.low is None or self.high is None:
            return "-"
        return f"[{self.low:.3f}, {self.high:.3f}]".replace("-", "−")


def mean_of(values: Sequence[float]) -> Mean:
    """Mean of (n,) values; NaN without any.

    Examples
    --------
    >>> str(mean_of([1.0, 2.0, 3.0]))
    '2.000 ± 0.577'
    """
    from scipy.stats import t

    n = len(values)
    mean = float(np.mean(values)) if n else math.nan
    if n < 2:
        return Mean(mean, None, None, None, n)
    error = float(np.std(values, ddof=1) / math.sqrt(n))
    half = float(t.ppf(0.975, n - 1)) * error
    return Mean(mean, error, mean - half, mean + half, n)


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """Adjust p-values for testing all of them (Holm 1979); None stays None and does not count.

    Examples
    --------
    >>> holm([0.01, 0.04, 0.03, None])
    [0.03, 0.06, 0.06, None]
    """
    tested = sorted((p, index) for index, p in enumerate(p_values) if p is not None)
    adjusted: list[float | None] = [None] * len(p_values)
    largest = 0.0
    for rank, (p, index) in enumerate(tested):
        largest = max(largest, min(1.0, (len(tested) - rank) * p))
        adjusted[index] = largest
    return adjusted


@dataclass(frozen=True)
class PairedComparison:
    """Model a against model b over n matched cells; the difference is a - b.

    None if a number is undefined: one pair, or equal differences.
    """

    n: int
    difference: float
    error: float | None
    """Standard error of the mean difference."""
    t: float | None
    p_t: float | None
    """Two-sided, of the paired t test."""
    w: float | None
    """The smaller of the two rank sums."""
    p_w: float | None
    """Two-sided, of Wilcoxon's signed-rank test; exact for few pairs without ties."""
    d_z: float | None
    """Cohen's d_z: mean over standard deviation of the differences."""
    rank_biserial: float | None
    """(R₊ - R₋) / (R₊ + R₋) of the signed ranks, in [-1, 1] (Kerby 2014)."""


def compare_pairs(a: Sequence[float], b: Sequence[float]) -> PairedComparison:
    """Compare matched values with the paired t test and Wilcoxon's signed-rank test.

    Parameters
    ----------
    a, b : sequence of float, length n
        Values of the same cells, in the same order.

    Raises
    ------
    ValueError
        Not as many of one as of the other, or none.
    """
    from scipy.stats import rankdata, ttest_rel, wilcoxon

    if len(a) != len(b) or not len(a):
        raise ValueError(f"expected pairs, not {len(a)} and {len(b)} values")
    first, second = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    differences = first - second
    mean = mean_of(differences.tolist())
    t = p_t = d_z = w = p_w = rank_biserial = None
    # Differences that are equal but for rounding have no spread to measure anything by.
    spread = float(np.std(differences, ddof=1)) if len(differences) > 1 else 0.0
    if spread > 1e-12 * np.abs(differences).max():
        test = ttest_rel(first, second)
        t, p_t, d_z = float(test.statistic), float(test.pvalue), mean.value / spread
    nonzero = differences[differences != 0]
    if len(nonzero) and len(differences) > 1:
        signed = wilcoxon(nonzero)
        w, p_w = float(signed.statistic), float(signed.pvalue)
        ranks = rankdata(np.abs(nonzero))
        rank_biserial = float((np.sign(nonzero) * ranks).sum() / ranks.sum())
    return PairedComparison(mean.n, mean.value, mean.error, t, p_t, w, p_w, d_z, rank_biserial)
