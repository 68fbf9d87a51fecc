"""Progress of a study."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from mdmt.cli.study import StudyProgress


def planned(arm: str) -> Any:
    return SimpleNamespace(arm=SimpleNamespace(label=arm))


def cell(arm: str, seconds: float) -> dict[str, Any]:
    return {"arm": arm, "backbone": "tiny", "fold": "0", "seed": 0, "seconds": seconds}


def test_time_left_is_that_of_the_arms_to_come() -> None:
    """Two workers; a constant takes 1 s, a federated cell 60 s, of pooled nothing is known."""
    progress = StudyProgress(2)
    cells = [planned(arm) for arm in ("constant", "constant", "federated", "federated", "pooled")]
    assert progress.plan([], cells) == "5 cells, 2 at a time"
    assert progress.seconds_left() is None
    progress.book(cell("constant", 1.0))
    assert progress.seconds_left() == pytest.approx(4 * 1.0 / 2)
    line = progress.book(cell("federated", 60.0))
    assert line == "cell 2 of 5: federated tiny fold 0 seed 0 in 60 s, about 46 s left"
    assert progress.seconds_left() == pytest.approx((1.0 + 60.0 + 30.5) / 2)
    status = progress.status(progress.started + 61)
    assert status == "2 of 5 cells  (1 min 1 s elapsed, about 46 s left)"


def test_cells_finished_before_count_as_done() -> None:
    progress = StudyProgress(0)
    said = progress.plan([cell("local", 10.0)], [planned("local"), planned("local")])
    assert said == "2 cells, 1 at a time, 1 finished before"
    assert progress.seconds_left() == pytest.approx(10.0)
