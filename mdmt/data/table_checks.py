"""Checks of all usable rows of a table together."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from mdmt.data.tabular import Issue, TabularFile

NO_PATIENTS = (
    "dataset.patient names no column: every image counts as one patient, and images of one patient"
    " can be in two splits"
)
ALL_USED = "all are used"


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


def similar_patients(samples: Sequence[Sample]) -> Iterator[Issue]:
    """Find patient ids that differ only in leading zeros or in upper and lower case."""
    first: dict[str, Sample] = {}
    pairs: dict[str, tuple[Sample, Sample]] = {}
    for sample in samples:
        key = sample.patient.casefold().lstrip("0")
        other = first.setdefault(key, sample)
        if other.patient != sample.patient:
            pairs.setdefault(key, (other, sample))
    if pairs:
        a, b = next(iter(pairs.values()))
        message = (
            f"{len(pairs)} patients have two similar ids, the first {a.patient} ({a.where}) and"
            f" {b.patient}: if they are one patient, write the id alike, or the patient can be in"
            " two splits"
        )
        yield Issue("warning", b.where, message)


def account(tabular: TabularFile, wanted: int, unlabelled: Sequence[str], used: int) -> str:
    """Say how many rows are used, and why the others are not."""
    damaged = sum(issue.severity == "error" for issue in tabular.issues)
    rows = len(tabular.rows)
    reasons = {
        "do not match dataset.where": rows - wanted,
        f"have no label of the site's tasks ({_some(unlabelled)})": len(unlabelled),
        "have a problem": damaged + wanted - len(unlabelled) - used,
    }
    others = "".join(f"; {n} {reason}" for reason, n in reasons.items() if n)
    found = f"{tabular.path.name}: {rows + damaged} rows"
    return f"{found}, {used} are used{others}" if others else f"{found}, {ALL_USED}"


def _some(places: Sequence[str]) -> str:
    """Name the first three places."""
    return ", ".join(places[:3]) + (", ..." if len(places) > 3 else "")
