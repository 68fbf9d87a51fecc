"""The Brixia score, the labels that are made of it, and the centres of its radiographs."""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Mapping

__all__ = ["LEVELS", "STRUCTURES", "ZONES", "centre_of", "labels_of", "padded", "parse_score"]

ZONES = ("A", "B", "C", "D", "E", "F")
"""Upper, middle, lower zone of the right lung, then of the left lung (Borghesi & Maroldi 2020); the
patient's right is on the left of the picture."""
LEVELS = 4
"""Number of scores of a zone: 0 to 3."""
STRUCTURES = {"zones": ZONES, "lungs": ("right", "left"), "global": ("global",)}
"""Labels of each structure."""
LUNG_EDGES = (1, 4, 7)
"""Highest sums of a lung's three scores at its levels 0, 1 and 2; above is level 3."""
GLOBAL_EDGES = (4, 9, 14)
"""Highest sums of all six scores at the global levels 0, 1 and 2; above is level 3."""
VENDORS = {
    "SIEMENS": "SIEMENS",
    "KODAK": "SIEMENS",
    "AGFA": "AGFA",
    "FUJIFILM": "AGFA",
    "CARESTREAM": "CARESTREAM",
    "VILLA SISTEMI MEDICALI": "CARESTREAM",
    "DIGITEC": "CARESTREAM",
}
"""The paper's three centres, by how a manufacturer's name begins."""


def parse_score(text: str) -> tuple[int, ...]:
    """Read a Brixia score: six digits, whose leading zeros a spreadsheet may have lost.

    Parameters
    ----------
    text : str
        ``013112``, or ``[13112]`` as the authors' split files have it.

    Returns
    -------
    tuple of int, length 6
        Scores 0 to 3 of the zones A to F.

    Raises
    ------
    ValueError
        It is no Brixia score.

    Examples
    --------
    >>> parse_score("[12023]")
    (0, 1, 2, 0, 2, 3)
    """
    digits = padded(text)
    if not re.fullmatch(r"[0-9]{6}", digits):
        raise ValueError(f"{text!r} is no Brixia score: expected six digits, such as 013112")
    for zone, digit in zip(ZONES, digits, strict=True):
        if int(digit) >= LEVELS:
            raise ValueError(f"{text!r} has {digit} in zone {zone}: scores are 0 to {LEVELS - 1}")
    return tuple(int(digit) for digit in digits)


def padded(text: str) -> str:
    """A score without brackets and with the leading zeros it may have lost."""
    return text.removeprefix("[").removesuffix("]").zfill(len(ZONES))


def labels_of(scores: tuple[int, ...], structure: str) -> dict[str, int]:
    """The labels of a structure, by the names in `STRUCTURES`.

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
    """Group of a manufacturer, whatever its spelling: ``Agfa-Gevaert`` is of the centre AGFA.

    Parameters
    ----------
    manufacturer : str
    others : mapping of str to str
        Centres of further manufacturers, by how their names begin.

    Raises
    ------
    ValueError
        The manufacturer is not known.
    """
    for beginning, centre in {**others, **VENDORS}.items():
        if manufacturer.upper().startswith(beginning.upper()):
            return centre
    raise ValueError(
        f"unknown manufacturer {manufacturer!r}: name its centre in dataset.manufacturers"
    )
