"""docs/privacy.md shows the tables that the tests of the attacks check."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from .tables import attack_table, secure_table

PAGE = Path(__file__).parents[2] / "docs" / "privacy.md"


@pytest.mark.parametrize(
    ("name", "table"), [("attacks", attack_table()), ("subtractions", secure_table())]
)
def test_the_page_has_the_table(name: str, table: str) -> None:
    text = PAGE.read_text(encoding="utf-8")
    (shown,) = re.findall(rf"<!-- {name} -->\n(.*?)<!-- /{name} -->", text, re.DOTALL)
    assert shown.strip() == table, "python -m tests.attacks prints the table"


def test_every_success_against_the_default_kit_is_told_below_the_table() -> None:
    """Whoever adds a row must say what it means for a hospital."""
    text = PAGE.read_text(encoding="utf-8")
    for line in attack_table().splitlines()[2:]:
        title, *_ = [cell.strip() for cell in line.strip("|").split("|")]
        kit = line.strip("|").split("|")[5].strip()
        if kit == "**yes**":
            assert title in EXPLAINED, title
            assert EXPLAINED[title] in text


EXPLAINED = {
    "Image patches from a batch of all patients: trap weights in a later round": (
        "**Image patches from a later round**"
    ),
    "How many patients have a label, from the losses of two crafted later rounds": (
        "**Counts of labels**"
    ),
    "Whether a known image was in the training data, from the release": "**Membership**",
}
