"""Guess the label space of a column from its cells."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from mdmt.data.table import MISSING

MOST_CLASSES = 10
MOST_FINDINGS = 40
HIGHEST_SCORE = 10
_NUMBER = re.compile(r"[-+]?(\d+([.,]\d*)?|[.,]\d+)([eE][-+]?\d+)?")
_SENTINELS = (-1, -9, -99, 9, 99, 999)
"""Numbers that tables use for a missing value, if they are far from the other values."""
_NOTHING = {"no finding", "no findings", "normal", "none"}
"""Entries of a list of findings that mean an empty list."""


@dataclass(frozen=True)
class Labels:
    """What a column could be a label of.

    Attributes
    ----------
    kind : {"classification", "regression", "multilabel"}
    classes : tuple of str
        Classes of a classification, sorted.
    range : tuple of int
        Lowest and highest value of a regression.
    continuous : bool
        True for numbers that are no scores.
    parts : tuple of str
        Findings that the cells list.
    separator : str or None
        Text between two findings.
    values : dict of str to str
        Cells that need a meaning; an empty one is a missing label.
    """

    kind: str
    classes: tuple[str, ...] = ()
    range: tuple[int, int] = (0, 0)
    continuous: bool = False
    parts: tuple[str, ...] = ()
    separator: str | None = None
    values: dict[str, str] = field(default_factory=dict)

    @property
    def is_score(self) -> bool:
        """True for small numbers, also for 0 and 1 alone."""
        return self.kind != "classification" and not self.continuous and not self.parts

    def __str__(self) -> str:
        return f"numbers from {self.range[0]} to {self.range[1]}"


@dataclass(frozen=True)
class GuessedTask:
    """A task and the columns of its labels.

    Attributes
    ----------
    name : str
        Letters, digits, ``-`` and ``_``.
    columns : tuple of str
    kind : {"classification", "regression", "multilabel"}
    labels : tuple of str
        Classes, findings or outputs.
    range : tuple of int
        Lowest and highest value of a regression in the table.
    values : dict of str to str
        See `Labels`.
    separator : str or None
    """

    name: str
    columns: tuple[str, ...]
    kind: str
    labels: tuple[str, ...]
    range: tuple[int, int] = (0, 0)
    values: dict[str, str] = field(default_factory=dict)
    separator: str | None = None

    def same_space(self, other: GuessedTask) -> bool:
        """Return True if both tasks can share a head; ranges can be united."""
        return (self.kind, self.labels) == (other.kind, other.labels)

    def __str__(self) -> str:
        """Say what the labels are."""
        if self.kind == "regression":
            return f"numbers from {self.range[0]} to {self.range[1]}"
        what = "classes" if self.kind == "classification" else "findings"
        return f"{what} {', '.join(self.labels)}"


def judge_labels(texts: Sequence[str]) -> Labels | str:
    """Return the labels that a column could have, or the reason why it has none."""
    missing = {text: "" for text in texts if text and text.lower() in MISSING}
    values = [text for text in texts if text.lower() not in MISSING]
    if not values:
        return "empty"
    if all(_NUMBER.fullmatch(value) for value in values):
        return _judge_numbers(values, missing)
    if any("|" in value for value in values):
        return _judge_lists(values, missing)
    classes = sorted(set(values))
    if len(classes) == 1:
        return f"always {classes[0][:40]}"
    if len(classes) > MOST_CLASSES:
        return f"{len(classes)} different texts"
    return Labels("classification", classes=tuple(classes), values=missing)


def _judge_numbers(values: Sequence[str], missing: dict[str, str]) -> Labels | str:
    numbers = {text: float(text.replace(",", ".")) for text in set(values)}
    sentinel = _sentinel(numbers.values())
    missing |= {text: "" for text, number in sorted(numbers.items()) if number == sentinel}
    found = sorted({number for number in numbers.values() if number != sentinel})
    if len(found) < 2:
        return f"always {found[0]:g}"
    if set(found) == {0, 1}:
        return Labels("multilabel", range=(0, 1), values=missing)
    low, high = math.floor(found[0]), math.ceil(found[-1])
    if low >= 0 and high <= HIGHEST_SCORE:
        return Labels("regression", range=(min(low, 1), high), values=missing)
    return Labels("regression", range=(low, high), continuous=True, values=missing)


def _sentinel(numbers: Iterable[float]) -> float | None:
    """Return the number that stands for a missing value: -1 before 0, or 9 after at most 4."""
    found = sorted(set(numbers))
    if len(found) < 3:
        return None
    if found[0] in _SENTINELS and found[1] >= 0:
        return found[0]
    if found[-1] in _SENTINELS and found[0] >= 0 and 2 * found[-2] < found[-1]:
        return found[-1]
    return None


def _judge_lists(values: Sequence[str], missing: dict[str, str]) -> Labels | str:
    parts = {part.strip() for value in values for part in value.split("|")} - {""}
    nothing = {part: "" for part in sorted(parts) if part.lower() in _NOTHING}
    findings = tuple(sorted(parts - set(nothing)))
    if len(findings) > MOST_FINDINGS:
        return f"lists of {len(findings)} different texts"
    return Labels("multilabel", parts=findings, separator="|", values=missing | nothing)
