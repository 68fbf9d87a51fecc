"""Usable rows of a table, and the checks that compare two rows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from mdmt.data.tabular import Issue

__all__ = ["Sample", "patients_in_two_splits", "repeated_images"]


@dataclass(frozen=True)
class Sample:
    """A usable row."""

    where: str
    """File:row."""
    image: Path
    mask: Path | None
    patient: str
    split: str
    """Empty if the table has no split column."""
    targets: dict[str, list[float]]
    """One number per target column, by task; NaN is a missing label."""
    columns: dict[str, str]
    """See `Manifest.columns`."""


def repeated_images(samples: Sequence[Sample]) -> Iterator[Issue]:
    """Find images that are in two rows."""
    first: dict[Path, str] = {}
    for sample in samples:
        other = first.setdefault(sample.image, sample.where)
        if other != sample.where:
            message = f"image {sample.image} is already in {other}; keep one row per image"
            yield Issue("error", sample.where, message)


def patients_in_two_splits(samples: Sequence[Sample]) -> Iterator[Issue]:
    """Find patients with rows in two splits."""
    rows: dict[str, dict[str, str]] = {}
    for sample in samples:
        seen = rows.setdefault(sample.patient, {})
        if seen and sample.split not in seen:
            split, row = next(iter(seen.items()))
            message = f"patient {sample.patient} is in {sample.split} here and in {split} in {row}"
            yield Issue("error", sample.where, f"{message}; keep a patient in one split")
        seen.setdefault(sample.split, sample.where)
