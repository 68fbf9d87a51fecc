"""Secure aggregation hides the update of one hospital, and each of its checks is needed for it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from .hospital import Refused
from .secure_matrix import EXACT, NOISE, SUBTRACTIONS


@pytest.mark.parametrize("name", SUBTRACTIONS)
def test_subtraction(name: str, tmp_path: Path) -> None:
    attack = SUBTRACTIONS[name]
    if attack.reason:
        with pytest.raises(Refused, match=re.escape(attack.reason)):
            attack.run(tmp_path / "checked")
    elif attack.check:
        assert abs(attack.run(tmp_path / "checked")) < NOISE
    with pytest.MonkeyPatch.context() as patch:
        attack.weaken(patch)
        assert (attack.unchecked or attack.run)(tmp_path / "unchecked") > EXACT
