"""How many patients a choice or a verdict needs: one rule for the whole program."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

FEWEST_PATIENTS: Final = 30
"""Fewest validation patients by which a round, or a head, may be chosen."""
FEWEST_OF_A_CLASS: Final = 10
"""Fewest patients of each class behind a choice, an interval or a test.

With 10 positives and 50 negatives, the 95 % interval of an AUROC of 0.8 is still 0.35 wide (Hanley
and McNeil 1982); with fewer, intervals of the bootstrap and of DeLong are too narrow.
"""


def enough_to_choose(patients: int, of_each_class: Iterable[int]) -> bool:
    """Return True if validation is large enough to choose a round or a head by it.

    Parameters
    ----------
    patients : int
        Validation patients with a label of the task, over all sites of the task.
    of_each_class : iterable of int
        Such patients of each class: for a finding, those with and those without it. Empty for a
        task that predicts numbers.

    Examples
    --------
    >>> enough_to_choose(30, [20, 10]), enough_to_choose(30, [21, 9]), enough_to_choose(29, [])
    (True, False, False)
    """
    return patients >= FEWEST_PATIENTS and enough_to_compare(of_each_class)


def enough_to_compare(of_each_class: Iterable[int]) -> bool:
    """Return True if there are enough patients of each class for an interval or a test.

    Parameters
    ----------
    of_each_class : iterable of int
        Test patients of each class; for a task that predicts numbers, all its test patients.

    Examples
    --------
    >>> enough_to_compare([58, 4]), enough_to_compare([30, 10])
    (False, True)
    """
    return all(number >= FEWEST_OF_A_CLASS for number in of_each_class)
