"""A run directory is shown as far as the run went."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from builders import federation_dict
from cli_builders import errors, run_cli

from mdmt.config import FederationConfig, save_config

CLASSIFIED = {"examples": 20, "auroc": 0.8, "auroc_low": 0.7, "auroc_high": 0.9, "brier": 0.1}
SCORED = {"examples": 30, "mae": 0.4, "pearson": 0.55, "sum_mae": 2.5}


def test_finished_run(finished_run: Path) -> None:
    shown = run_cli("show", finished_run).stdout
    for text in (
        "clinic",
        "hospital",
        "infirmary",
        "MILD: ",
        "0: ",
        "2 rounds in",
        "refused: none",
    ):
        assert text in shown
    for arm in ("constant", "local only", "federated, last (2)", "federated, best ("):
        assert arm in shown
    assert "finished" not in shown  # neither "unfinished"
    metrics = json.loads((finished_run / "metrics.json").read_text())
    test = metrics["checkpoints"]["last"]["sites"]["clinic"]["test"]
    low, high = test["severity/mae_low"], test["severity/mae_high"]
    assert f"{test['severity/mae']:.3f} [{low:.3f}, {high:.3f}]" in shown


def write_run(folder: Path, **files: Any) -> Path:
    """A run directory with `files`: lists as JSON lines, the rest as JSON."""
    folder.mkdir()
    config = FederationConfig.model_validate(federation_dict())
    save_config(config, folder / "federation.yaml")
    for name, value in files.items():
        if isinstance(value, list):
            text = "".join(json.dumps(line) + "\n" for line in value)
            (folder / f"{name}.jsonl").write_text(text)
        else:
            (folder / f"{name}.json").write_text(json.dumps(value))
    return folder


def arm(prognosis: float, severity: float) -> dict[str, Any]:
    metrics = {
        f"prognosis/{key}": value for key, value in (CLASSIFIED | {"auroc": prognosis}).items()
    }
    scores = {f"severity/{key}": value for key, value in (SCORED | {"mae": severity}).items()}
    return {"round": 2, "sites": {"a": {"test": metrics | scores}}}


def difference(task: str, value: float, low: float | None, high: float | None) -> dict[str, Any]:
    """What the site a reports of the last model against local training."""
    numbers = {"": value, "_low": low, "_high": high}
    return {"local": {"a": {f"{task}{end}": number for end, number in numbers.items()}}}


@pytest.mark.parametrize(
    ("differences", "says"),
    [
        (difference("severity/mae", -0.1, -0.18, -0.02), "−0.100 [−0.180, −0.020] better"),
        (difference("severity/mae", -0.1, -0.22, 0.02), "−0.100 [−0.220, +0.020] no difference"),
        (difference("severity/mae", -0.1, None, None), "−0.100 +0.000 +0.000 no difference shown"),
        ({}, "−0.100 +0.000 +0.000 no difference shown"),  # a run of version 0.3
    ],
)
def test_verdict_needs_an_interval_that_excludes_0(
    tmp_path: Path, differences: dict[str, Any], says: str
) -> None:
    last = arm(prognosis=0.8, severity=0.4) | {"differences": differences}
    metrics = {
        "format": 1,
        "checkpoints": {"last": last},
        "references": {"local": arm(prognosis=0.9, severity=0.5)},
    }
    events = [{"event": "done", "time": 1.0}]
    run = write_run(tmp_path / "run", metrics=metrics, events=events)
    shown = run_cli("show", run).stdout
    assert "0.800 [0.700, 0.900]" in shown
    lines = [*map(str.split, shown.splitlines())]
    starts = [n for n, words in enumerate(lines) if words[:4] == ["last", "vs.", "local", "only"]]
    auroc, mae = (" ".join([*lines[n][4:7], *lines[n + 1]]) for n in starts)
    assert "−0.100" in auroc
    assert "no difference shown" in auroc
    assert says in mae


HISTORY = [
    {
        "round": 1,
        "sites": {"a": {"validation": {"severity/mae": 0.625}, "bytes_down": 2e6, "bytes_up": 1e6}},
        "refusals": {"b": "non-finite"},
        "seconds": 3.0,
        "tasks": {},
    }
]


@pytest.mark.parametrize(
    ("last_event", "says"),
    [
        ({"event": "failed", "exit_code": 1, "message": "no site left"}, "failed: no site left"),
        ({"event": "round", "round": 2}, "unfinished: booked up to round 1 of 2"),
    ],
)
def test_run_without_a_result(tmp_path: Path, last_event: dict[str, Any], says: str) -> None:
    run = write_run(tmp_path / "run", history=HISTORY, events=[last_event])
    result = run_cli("show", run)
    assert result.exit_code == 0
    assert f"run: {says}" in result.stdout
    assert "0.625" in result.stdout
    assert "1 rounds in 3 s; 2.0 MB to the sites, 1.0 MB back" in result.stdout
    assert "b in round 1 (non-finite)" in result.stdout


def test_line_that_is_being_written_is_left_out(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", history=HISTORY)
    with (run / "history.jsonl").open("a") as file:
        file.write('{"round": 2, "si')
    assert "booked up to round 1 of 2" in run_cli("show", run).stdout


def test_damaged_run_is_named(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run")
    (run / "metrics.json").write_text("{")
    result = run_cli("show", run)
    assert result.exit_code == 2
    assert "metrics.json: damaged" in errors(result)[0]


def test_run_that_fails_says_why_and_can_be_shown(
    monkeypatch: pytest.MonkeyPatch, finished_run: Path, tmp_path: Path
) -> None:
    """A site that fails in every round ends the run with exit code 1."""

    def fail(*arguments: Any, **options: Any) -> None:
        raise RuntimeError("out of memory")

    monkeypatch.setattr("client.site.train", fail)
    config = shutil.copy(finished_run.parent / "federation.yaml", tmp_path / "federation.yaml")
    result = run_cli("simulate", config, "--out", tmp_path / "run")
    assert result.exit_code == 1
    assert len(errors(result)) == 1
    shown = run_cli("show", tmp_path / "run").stdout
    assert "run: failed: " in shown
    assert "clinic" in shown
