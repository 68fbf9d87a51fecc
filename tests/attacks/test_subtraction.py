"""Secure aggregation hides the update of one hospital, and each of its checks is needed for it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from . import subtraction
from .hospital import Refused

Weaken = Callable[[pytest.MonkeyPatch], None]
EXACT, NOISE = 0.98, 0.1


def no_binding(patch: pytest.MonkeyPatch) -> None:
    """The masks do not depend on the table."""
    patch.setattr("client.secure_site.transcript", lambda *facts: bytes(32))


def no_memory(patch: pytest.MonkeyPatch) -> None:
    """A site answers a round as often as it is asked."""
    no_binding(patch)
    patch.setattr("client.secure_store.SecureStore.answer", lambda *order: None)


def no_masks(patch: pytest.MonkeyPatch) -> None:
    """The numbers are sent without masks."""
    patch.setattr("mdmt.privacy.masking.ArrayMask.apply", lambda mask, values: None)


def no_check_of_the_table(patch: pytest.MonkeyPatch) -> None:
    """A site takes the weights that it gets."""
    patch.setattr("client.secure_site.check_table", lambda *order: None)


@pytest.mark.parametrize(
    ("attack", "reason", "weaken"),
    [
        (subtraction.repeated_round, "a round has one answer", no_memory),
        (subtraction.one_answer, "", no_masks),
        (subtraction.split_table, "", no_binding),
        (subtraction.own_weights, "do not follow", no_check_of_the_table),
    ],
)
def test_the_server_cannot_subtract(
    attack: Callable[[Path], float], reason: str, weaken: Weaken, tmp_path: Path
) -> None:
    if reason:
        with pytest.raises(Refused, match=reason):
            attack(tmp_path / "protected")
    else:
        assert abs(attack(tmp_path / "protected")) < NOISE
    with pytest.MonkeyPatch.context() as patch:
        weaken(patch)
        assert attack(tmp_path / "weak") > EXACT


def test_no_site_may_have_most_of_the_weight(tmp_path: Path) -> None:
    with pytest.raises(Refused, match=r"max_peer_weight allows 0\.6, site a-hospital has 0\.857"):
        subtraction.dominating_weight(tmp_path / "protected")
    assert subtraction.dominating_weight(tmp_path / "weak", max_peer_weight=1.0) > EXACT


def test_a_site_answers_only_with_all_of_its_peers(tmp_path: Path) -> None:
    with pytest.raises(Refused, match="peers lists site a-hospital, which is not in this run"):
        subtraction.two_runs(tmp_path / "protected")
    assert subtraction.two_runs(tmp_path / "weak", deployed=False) > EXACT


def test_a_site_answers_no_invented_peer(tmp_path: Path) -> None:
    with pytest.raises(Refused, match="peers does not list site b-hospital"):
        subtraction.invented_sites(tmp_path / "protected")
    assert subtraction.invented_sites(tmp_path / "weak", deployed=False) > EXACT


def test_all_other_sites_together_subtract_their_updates(tmp_path: Path) -> None:
    """No method that gives an exact sum prevents this."""
    assert subtraction.colluding_sites(tmp_path) > EXACT
