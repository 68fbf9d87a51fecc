"""Every attack succeeds where docs/privacy.md says so, and fails where it says so."""

from __future__ import annotations

from pathlib import Path

import pytest

from .hospital import Refused
from .matrix import ATTACKS, PROTECTIONS


@pytest.mark.parametrize("protection", PROTECTIONS)
@pytest.mark.parametrize("name", ATTACKS)
def test_attack(name: str, protection: str, tmp_path: Path) -> None:
    attack = ATTACKS[name]
    reason = attack.fails.get(protection)
    if reason:
        with pytest.raises(Refused, match=reason):
            attack.against(PROTECTIONS[protection], tmp_path / "site")
        return
    score = attack.against(PROTECTIONS[protection], tmp_path / "site")
    if reason is None:
        assert score >= attack.success
    else:
        assert score < attack.success
