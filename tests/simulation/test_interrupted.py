"""Ctrl-C says how to continue, and a resumed run needs no --set again."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import pytest
import yaml
from builders import federation_dict
from cli_builders import errors, run_cli

import server.run
from mdmt.config import load_saved_federation


def test_an_interrupted_run_continues_with_the_command_that_it_names(
    two_sites: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("fed.yaml").write_text(yaml.safe_dump(federation_dict(sites=two_sites)))
    book = server.run.RunDirectory.event

    def interrupted(self: Any, kind: str, **data: Any) -> None:
        if kind == "round" and data["round"] == 3:
            raise KeyboardInterrupt
        book(self, kind, **data)

    with monkeypatch.context() as patch:
        patch.setattr(server.run.RunDirectory, "event", interrupted)
        options = ("--set", "training.rounds=4", "--workers", "1")
        result = run_cli("simulate", "fed.yaml", *options)
    assert result.exit_code == 130, result.output
    (line,) = errors(result)
    assert line.startswith("error: interrupted: it goes on after round 2, with the files in ")
    command = line.partition("continue with ")[2]
    result = run_cli(*shlex.split(command)[1:], "--workers", "1")
    assert result.exit_code == 0, result.output
    assert load_saved_federation(tmp_path / "runs/test/federation.yaml").training.rounds == 4
    assert "4 rounds in" in result.stdout


def test_before_the_first_round_nothing_is_kept(
    two_sites: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*arguments: Any, **options: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("simulation.complete.simulate", interrupted)
    file = tmp_path / "fed.yaml"
    file.write_text(yaml.safe_dump(federation_dict(sites=two_sites)))
    result = run_cli("simulate", file, "--out", tmp_path / "run", "--workers", "1")
    assert result.exit_code == 130
    (line,) = errors(result)
    assert "interrupted before the first round; to start again, delete" in line
