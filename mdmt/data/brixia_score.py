"""The Brixia score, the labels made from it, and the centres of its radiographs."""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Mapping

__all__ = ["LEVELS", "STRUCTURES", "ZONES", "centre_of", "labels_of", "padded", "parse_score"]

ZONES = ("A", "B", "C", "D", "E", "F")
"""Upper, middle and lower zone of the right lung, then of the left lung (Borghesi & Maroldi 2020).
The right lung is on the left side of the picture."""
LEVELS = 4
"""Number of scores of a zone: 0 to 3."""
STRUCTURES = {"zones": ZONES, "lungs": ("right", "left"), "global": ("global",)}
"""Labels of each structure."""
LUNG_EDGES = (1, 4, 7)
"""Highest sums of the three scores of a lung for levels 0, 1 and 2; a higher sum is level 3."""
GLOBAL_EDGES = (4, 9, 14)
"""Highest sums of all six scores for the global levels 0, 1 and 2; a higher sum is level 3."""
VENDORS = {
    "SIEMENS": "SIEMENS",
    "KODAK": "SIEMENS",
    "AGFA": "AGFA",
    "FUJIFILM": "AGFA",
    "CARESTREAM": "CARESTREAM",
    "VILLA SISTEMI MEDICALI": "CARESTREAM",
    "DIGITEC": "CARESTREAM",
}
"""The three centres of the paper, by the beginning of the manufacturer's name."""


def parse_score(text: str) -> tuple[int, ...]:
    """Read a Brixia score: six digits. Leading zeros may be missing, as in spreadsheets.

    Parameters
    ----------
    text : str
        ``013112``, or ``[13112]`` as in the split files of the authors.

    Returns
    -------
    tuple of int, length 6
        Scores from 0 to 3 of the zones A to F.

    Raises
    ------
    ValueError
        The text is not a Brixia score.

    Examples
    --------
    >>> parse_score("[12023]")
    (0, 1, 2, 0, 2, 3)
    """
    digits = padded(text)
    if not re.fullmatch(r"[0-9]{6}", digits):
        raise ValueError(f"{text!r} is not a Brixia score; expected six digits, such as 013112")
    for zone, digit in zip(ZONES, digits, strict=True):
        if int(digit) >= LEVELS:
            raise ValueError(f"{text!r} has {digit} in zone {zone}: scores are 0 to {LEVELS - 1}")
    return tuple(int(digit) for digit in digits)


def padded(text: str) -> str:
    """Remove the brackets of a score and add its missing leading zeros."""
    return text.removeprefix("[").removesuffix("]").zfill(len(ZONES))


def labels_of(scores: tuple[int, ...], structure: str) -> dict[str, int]:
    """Return the level of each label of a structure in `STRUCTURES`.

    Examples
    --------
    >>> labels_of((0, 0, 1, 3, 3, 2), "lungs"), labels_of((0, 0, 1, 3, 3, 2), "global")
    ({'right': 0, 'left': 3}, {'global': 1})
    """
    right, left = sum(scores[:3]), sum(scores[3:])
    match structure:
        case "zones":
            levels = scores
        case "lungs":
            levels = (bisect_left(LUNG_EDGES, right), bisect_left(LUNG_EDGES, left))
        case _:
            levels = (bisect_left(GLOBAL_EDGES, right + left),)
    return dict(zip(STRUCTURES[structure], levels, strict=True))


def centre_of(manufacturer: str, others: Mapping[str, str]) -> str:
    """Return the centre of a manufacturer by the beginning of its name.

    ``Agfa-Gevaert`` belongs to the centre AGFA. Upper and lower case do not matter.

    Parameters
    ----------
    manufacturer : str
    others : mapping of str to str
        Centre of other manufacturers by the beginning of their names.

    Raises
    ------
    ValueError
        The manufacturer is unknown.
    """
    for beginning, centre in {**others, **VENDORS}.items():
        if manufacturer.upper().startswith(beginning.upper()):
            return centre
    raise ValueError(
        f"unknown manufacturer {manufacturer!r}; set its centre in dataset.manufacturers"
    )
