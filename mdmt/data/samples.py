"""The rows of a table as samples, and what can be wrong between two of them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mdmt.data.tabular import Issue

__all__ = ["Sample", "patients_in_two_splits", "repeated_images"]


@dataclass(frozen=True)
class Sample:
    """A row that can be used."""

    where: str
    """File:row."""
    image: Path
    mask: Path | None
    patient: str
    split: str
    """Empty where the table has no split column."""
    targets: dict[str, list[float]]
    """A number per target column, by task; NaN where a label is missing."""
    columns: dict[str, str]
    """As in `Manifest.columns`."""


def repeated_images(samples: Sequence[Sample]) -> list[Issue]:
    """Find images that stand in two rows."""
    first: dict[Path, str] = {}
    issues = []
    for sample in samples:
        other = first.setdefault(sample.image, sample.where)
        if other != sample.where:
            message = f"image {sample.image} stands in {other} already: keep one row per image"
            issues.append(Issue("error", sample.where, message))
    return issues


def patients_in_two_splits(samples: Sequence[Sample]) -> list[Issue]:
    """Find patients whose rows are in two splits."""
    rows: dict[str, dict[str, str]] = defaultdict(dict)
    issues = []
    for sample in samples:
        seen = rows[sample.patient]
        if seen and sample.split not in seen:
            split, row = next(iter(seen.items()))
            message = f"patient {sample.patient} is in {sample.split} here and in {split} in {row}"
            issues.append(Issue("error", sample.where, f"{message}: keep a patient in one split"))
        seen.setdefault(sample.split, sample.where)
    return issues
