"""Is the federated model better than a reference? Only an interval of the difference may say so."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

NOTHING_SHOWN = "no difference shown"


@dataclass(frozen=True)
class Gain:
    """The primary metric of a model minus that of a reference, on the same test patients.

    Attributes
    ----------
    value : float or None
        None if one of them is undefined or withheld.
    low, high : float or None
        95 % interval over patients; None if the site reported none, as it has too few patients.
    better : str
        ``higher`` or ``lower``.
    """

    value: float | None
    low: float | None
    high: float | None
    better: str

    @property
    def verdict(self) -> str:
        """``better`` or ``worse`` if the interval excludes 0, else ``no difference shown``."""
        if self.low is None or self.high is None or self.low <= 0 <= self.high:
            return NOTHING_SHOWN
        return "better" if (self.low > 0) == (self.better == "higher") else "worse"

    @property
    def is_loss(self) -> bool:
        """True if the model is below the reference on these patients, shown or not."""
        if not self.value:
            return False
        return (self.value < 0) == (self.better == "higher")

    def describe(self, separator: str = ", ") -> str:
        """Write the difference, its interval and the verdict.

        Examples
        --------
        >>> Gain(0.05, 0.01, 0.09, "higher").describe()
        '+0.050 [+0.010, +0.090], better'
        >>> Gain(0.05, None, None, "higher").describe()
        '+0.050, no difference shown'
        """
        if self.value is None:
            return "-"
        numbers = f"{self.value:+.3f}"
        if self.low is not None and self.high is not None:
            numbers += f" [{self.low:+.3f}, {self.high:+.3f}]"
        return f"{numbers.replace('-', '−')}{separator}{self.verdict}"


def gain(
    checkpoint: Mapping[str, Any],
    references: Mapping[str, Any],
    reference: str,
    site: str,
    key: str,
    better: str,
) -> Gain:
    """Return what a checkpoint gained over a reference at one site.

    Parameters
    ----------
    checkpoint : mapping
        An entry of ``checkpoints`` in ``metrics.json``.
    references : mapping
        The entry ``references``.
    reference : str
    site : str
    key : str
        ``task/metric``.
    better : str
        ``higher`` or ``lower``.

    Returns
    -------
    Gain
        Without an interval if the run, such as one of version 0.3, has none.
    """
    found = checkpoint.get("differences", {}).get(reference, {}).get(site, {})
    value, low, high = (found.get(key + end) for end in ("", "_low", "_high"))
    if value is None:
        model, other = (
            entry.get("sites", {}).get(site, {}).get("test", {}).get(key)
            for entry in (checkpoint, references.get(reference, {}))
        )
        value = None if model is None or other is None else model - other
    return Gain(value, low, high, better)
