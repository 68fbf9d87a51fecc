"""What a coordinator tries against secure aggregation, and the check that prevents it.

This is the source of the second table in docs/privacy.md.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest

from . import subtraction

EXACT, NOISE = 0.98, 0.1
"""The cosine of what was read and the true update: at least EXACT is a success."""


def no_binding(patch: pytest.MonkeyPatch) -> None:
    """The masks do not depend on the table."""
    patch.setattr("client.secure_site.transcript", lambda *facts: bytes(32))


def no_memory(patch: pytest.MonkeyPatch) -> None:
    """A site answers a round as often as it is asked, with the same masks."""
    no_binding(patch)
    patch.setattr("client.secure_store.SecureStore.answer", lambda *order: None)


def no_masks(patch: pytest.MonkeyPatch) -> None:
    """The numbers are sent without masks."""
    patch.setattr("mdmt.privacy.masking.ArrayMask.apply", lambda mask, values: None)


def no_table_check(patch: pytest.MonkeyPatch) -> None:
    """A site takes the weights that it gets."""
    patch.setattr("client.secure_site.check_table", lambda *order: None)


def as_it_is(patch: pytest.MonkeyPatch) -> None:
    """Change nothing."""


@dataclass(frozen=True)
class Subtraction:
    """One row of the table."""

    title: str
    who: str
    run: Callable[[Path], float]
    check: str
    """What prevents it; empty if nothing does."""
    reason: str = ""
    """A part of the refusal. Without one the attacker gets noise."""
    unchecked: Callable[[Path], float] | None = None
    """The same attack against a site whose policy does not prevent it."""
    weaken: Callable[[pytest.MonkeyPatch], None] = as_it_is
    """Switch the check off."""


SERVER, LIARS = "coordinator", "coordinator and sites that sign false counts"
SUBTRACTIONS = {
    "one answer": Subtraction(
        "Read the answer of one hospital while others have dropped out",
        SERVER,
        subtraction.one_answer,
        "pairwise masks, which nobody removes",
        weaken=no_masks,
    ),
    "repeated round": Subtraction(
        "Ask for a round twice, and subtract the answers",
        SERVER,
        subtraction.repeated_round,
        "a round has one answer, on the disk before it is sent",
        "a round has one answer",
        weaken=no_memory,
    ),
    "split table": Subtraction(
        "Tell the other hospitals to train nothing",
        SERVER,
        subtraction.split_table,
        "masks depend on the whole table",
        weaken=no_binding,
    ),
    "own weights": Subtraction(
        "Give one hospital all the weight",
        SERVER,
        subtraction.own_weights,
        "sites compute the weights again from signed counts",
        "do not follow",
        weaken=no_table_check,
    ),
    "dominating weight": Subtraction(
        "Let one hospital have most of the weight",
        LIARS,
        subtraction.dominating_weight,
        "`policy.max_peer_weight`",
        "max_peer_weight allows 0.6, site a-hospital has 0.857",
        unchecked=partial(subtraction.dominating_weight, max_peer_weight=1.0),
    ),
    "two runs": Subtraction(
        "Run with and without one hospital, and subtract the sums",
        SERVER,
        subtraction.two_runs,
        "a site answers only with all of its `policy.peers`",
        "peers lists site a-hospital, which is not in this run",
        unchecked=partial(subtraction.two_runs, deployed=False),
    ),
    "invented sites": Subtraction(
        "Invent the other sites",
        SERVER,
        subtraction.invented_sites,
        "`policy.peers`: fingerprints that engineers compared",
        "peers does not list site b-hospital",
        unchecked=partial(subtraction.invented_sites, deployed=False),
    ),
    "all others": Subtraction(
        "Subtract the updates of all other hospitals",
        "coordinator and all sites but one",
        subtraction.colluding_sites,
        "",
    ),
}
