"""The splits of one site in a fold, as a file. A study writes it for the sites it simulates."""

import csv
from dataclasses import replace
from pathlib import Path
from typing import get_args

import numpy as np

from mdmt.data.manifest import Manifest, Split
from mdmt.errors import DataError
from mdmt.files import atomic_path

__all__ = ["divide", "write_division"]

_HEADER = ["row", "split"]
_SPLITS = (*get_args(Split), "unused")


def write_division(file: Path, manifest: Manifest) -> None:
    """Write the splits of `manifest` as a CSV file with the columns row and split."""
    with atomic_path(file) as temporary, temporary.open("w", newline="", encoding="utf-8") as out:
        table = csv.writer(out, lineterminator="\n")
        table.writerow(_HEADER)
        table.writerows(zip(manifest.rows, manifest.splits.tolist(), strict=True))


def divide(manifest: Manifest, file: Path) -> Manifest:
    """Replace the splits of `manifest` by those that `write_division` wrote.

    Raises
    ------
    DataError
        The file is missing or invalid, or was written for other rows.
    """
    try:
        with file.open(newline="", encoding="utf-8") as source:
            header, *lines = csv.reader(source)
            splits = {row: split for row, split in lines}  # noqa: C416 - refuses other widths
    except (OSError, ValueError) as error:
        raise DataError(f"{file}: is not a file of rows and their splits ({error})") from error
    if header != _HEADER or not set(splits.values()) <= set(_SPLITS):
        raise DataError(f"{file}: expected columns row and split, one of {', '.join(_SPLITS)}")
    for row in manifest.rows:
        if row not in splits:
            raise DataError(f"{file}: no split for {row}: it was written for other data")
    return replace(manifest, splits=np.array([splits[row] for row in manifest.rows]))
