"""Progress from events."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mdmt.cli.progress import Progress, duration, local_rounds
from mdmt.config import FederationConfig
from mdmt.results.events import follow


@pytest.fixture
def progress(two_sites: dict[str, Any], make_config: Callable[..., FederationConfig]) -> Progress:
    return Progress(make_config(sites=two_sites, references=["local"]))


def event(kind: str, time: float, **data: Any) -> dict[str, Any]:
    return {"event": kind, "time": time, **data}


def test_time_left_counts_the_local_reference(progress: Progress) -> None:
    """2 rounds and as much again for local-only; a site's reply is half a round."""
    progress.update(event("round", 10.0, round=1, rounds=2))
    assert progress.seconds_left(10.0) is None
    progress.update(event("reply", 13.0, round=1, site="clinic"))
    assert progress.seconds_left(13.0) == pytest.approx(3.0 / 0.5 * 3.5)
    progress.update(event("reply", 16.0, round=1, site="hospital"))
    assert progress.details(80) == ["clinic: done   hospital: done"]
    progress.update(event("round", 16.0, round=2, rounds=2))
    for site in ("clinic", "hospital"):
        progress.update(event("reply", 22.0, round=2, site=site))
    assert progress.seconds_left(22.0) == pytest.approx(12.0)
    progress.update(event("evaluate", 22.0, round=2))
    references = event("references", 22.0, sites=["clinic", "hospital"], rounds=2)
    assert progress.update(references) == ["computing the references at the sites"]
    progress.note_local_rounds({"clinic": 2, "hospital": 1})
    assert progress.details(80) == ["clinic: local round 2 of 2   hospital: local round 1 of 2"]
    assert progress.fraction == pytest.approx(3.5 / 4)
    assert progress.seconds_left(31.0) == pytest.approx(3.0)
    progress.note_local_rounds({"clinic": 2, "hospital": 2})
    assert progress.seconds_left(34.0) == pytest.approx(0.0)


def test_rounds_that_sites_train_alone_are_read_from_their_files(tmp_path: Path) -> None:
    for site, number in (("clinic", 1), ("clinic", 12), ("hospital", 3)):
        file = tmp_path / "sites" / site / "covid" / "ab12" / "local"
        file.mkdir(parents=True, exist_ok=True)
        (file / f"round-{number:05d}.safetensors").touch()
    assert local_rounds(tmp_path) == {"clinic": 12, "hospital": 3}


def test_refusals_and_metrics_stay_on_the_screen(progress: Progress) -> None:
    progress.update(event("round", 0.0, round=1, rounds=2))
    tasks = {"prognosis/auroc": 0.75, "severity/mae": None}
    booked = event("booked", 2.0, round=1, tasks=tasks, refusals={"clinic": "non-finite"})
    refusal, metrics = progress.update(booked)
    assert refusal == "refused: clinic, round 1: non-finite"
    assert metrics.startswith("round 1/2 validation: prognosis auroc 0.750, severity mae undefined")
    refused = event("refused", 3.0, round=2, site="clinic", reason="no answer within 9 s")
    assert progress.update(refused) == ["refused: clinic: no answer within 9 s"]


def test_a_resumed_run_estimates_from_its_own_rounds(
    two_sites: dict[str, Any], make_config: Callable[..., FederationConfig]
) -> None:
    """Rounds 1-8 of 10 were done by an earlier process; the ninth takes 4 s."""
    training = {"rounds": 10, "local_steps": 1}
    progress = Progress(make_config(sites=two_sites, training=training))
    assert progress.update(event("resumed", 0.0, round=8)) == ["resumed after round 8"]
    progress.update(event("round", 0.0, round=9, rounds=10))
    assert progress.seconds_left(0.0) is None
    for site in ("clinic", "hospital"):
        progress.update(event("reply", 4.0, round=9, site=site))
    assert progress.seconds_left(4.0) == pytest.approx(4.0)


def test_follow_waits_for_whole_lines_and_misses_none(tmp_path: Path) -> None:
    path, seen, stop, first = tmp_path / "events.jsonl", [], threading.Event(), threading.Event()

    def on_event(found: dict[str, Any]) -> None:
        seen.append(found["n"])
        first.set()

    follower = threading.Thread(target=follow, args=(path, on_event, stop))
    follower.start()
    line = json.dumps({"n": 2})
    path.write_text(json.dumps({"n": 1}) + "\n" + line[:4])
    assert first.wait(5)
    with path.open("a") as file:
        file.write(line[4:] + "\n" + json.dumps({"n": 3}) + "\n")
    stop.set()
    follower.join(5)
    assert seen == [1, 2, 3]


def test_four_tasks_and_long_names_fit_into_80_columns(
    make_config: Callable[..., FederationConfig],
) -> None:
    sites = [f"university-hospital-{n}" for n in range(6)]
    names = ("disease-progression", "opacity-severity", "oedema-extent", "age-at-examination")
    zones = {"kind": "regression", "outputs": ["a"], "range": [0, 3]}
    progress = Progress(make_config(tasks=dict.fromkeys(names, zones)))
    progress.update(event("registration", 0.0, sites=sites))
    progress.update(event("round", 0.0, round=99, rounds=100))
    progress.update(event("reply", 5e4, round=99, site=sites[0]))
    tasks = {f"{name}/mae": 0.5 for name in names}
    progress.update(event("booked", 5e4, round=99, tasks=tasks, refusals={}))
    lines = progress.details(80)
    assert all(len(line) <= 80 for line in lines)
    text = " ".join(" ".join(lines).split())
    assert "university-hospital-0: done university-hospital-1: training" in text
    assert "age-at-examination mae 0.500" in text
    # The bar of 20 columns and a blank stand before the headline.
    assert len(progress.headline(5e4)) <= 59
    many = [f"site-{n}" for n in range(20)]
    progress.update(event("registration", 0.0, sites=many))
    progress.update(event("round", 5e4, round=100, rounds=100))
    progress.update(event("reply", 6e4, round=100, site="site-3"))
    assert progress.details(80)[0] == "1 sites done   19 sites training"


def test_durations() -> None:
    assert [duration(s) for s in (9, 75, 3661)] == ["9 s", "1 min 15 s", "1 h 1 min"]
