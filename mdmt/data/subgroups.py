"""Divide images into subgroups by the cells of a column: sex, age band, view, scanner."""

from __future__ import annotations

import re
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from mdmt.data.table import MISSING

MOST_GROUPS = 12
"""Largest number of texts of a column that is no number."""
BAND = 20
"""Width of a band of numbers, such as years of age."""
UNKNOWN = "unknown"
_NUMBER = re.compile(r"(\d+(?:[.,]\d+)?)\s*[Yy]?")
"""A number, or an age as DICOM writes it: 063Y."""


def subgroups(columns: Mapping[str, NDArray[np.str_]]) -> dict[str, NDArray[np.str_]]:
    """Return the group of each image, by column.

    Numbers with more than `MOST_GROUPS` values become bands of `BAND`: ``40-59``. A column with
    more than `MOST_GROUPS` other texts is left out. A missing cell is in the group `UNKNOWN`.

    Parameters
    ----------
    columns : mapping of str to ndarray of str, (N,)
        `Manifest.columns`.

    Examples
    --------
    >>> ages = np.array(["063Y", "7", "41,5", "", *map(str, range(20, 40))])
    >>> subgroups({"age": ages})["age"][:4].tolist()
    ['60-79', '0-19', '40-59', 'unknown']
    """
    found = {}
    for name, cells in columns.items():
        texts = [UNKNOWN if text.lower() in MISSING else text for text in cells.tolist()]
        if len(set(texts)) > MOST_GROUPS:
            texts = [_band(text) for text in texts]
        if 1 < len(set(texts)) <= MOST_GROUPS:
            found[name] = np.array(texts, dtype=np.str_)
    return found


def _band(text: str) -> str:
    number = _NUMBER.fullmatch(text)
    if number is None:
        return text
    low = int(float(number[1].replace(",", "."))) // BAND * BAND
    return f"{low}-{low + BAND - 1}"
