"""docs/tutorial.md: two tables in other layouts become a report, with the commands of the page."""

from __future__ import annotations

import csv
import re
from pathlib import Path

import pytest
from cli_builders import run_cli
from test_docs import ROOT, commands
from tutorial_data import ZONES, write_city, write_clinic

PAGE = (ROOT / "docs" / "tutorial.md").read_text()
SMALL = ("model.backbone=test_resnet", "model.image_size=32", "training.rounds=1", "references=[]")


def test_the_tutorial_works_command_by_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "two-hospitals"
    folder.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    write_city(folder)
    write_clinic(folder)
    outputs = {}
    for arguments in (found for found in commands(PAGE) if len(found) > 1):
        if arguments == ["simulate", "federation.yaml"]:  # the real run: minutes, here smaller
            arguments += [part for change in SMALL for part in ("--set", change)]
        result = run_cli(*arguments)
        assert result.exit_code == 0, (arguments, result.output)
        outputs[arguments[0]] = result.stdout
    assert " ".join(outputs) == "init validate simulate show report predict evaluate"
    (shown,) = re.findall(r"^\$ mdmt init .*\n((?:.+\n)+)```", PAGE, re.MULTILINE)
    assert outputs["init"] == shown
    assert outputs["validate"].count("36 rows, 33 are used; 3 have no label") == 2
    assert "warning" not in outputs["validate"]
    assert Path("runs/trial/report.html").stat().st_size > 10_000
    with Path("predictions.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 36
    assert "View: AP" in outputs["evaluate"]
    assert {"Outcome.SEVERE", *(f"Z.{zone}" for zone in ZONES)} < set(rows[0])


def test_the_tables_of_the_page_are_those_that_are_used(tmp_path: Path) -> None:
    write_city(tmp_path, 2)
    assert (tmp_path / "city" / "outcomes.csv").read_text() in PAGE
    (row,) = re.findall(r"^\| C-0 \| .*$", PAGE, re.MULTILINE)
    write_clinic(tmp_path, 1)
    from mdmt.data.tabular import read_tabular_file

    (found,) = read_tabular_file(tmp_path / "clinic" / "scores.xlsx").rows
    assert [cell.strip() for cell in row.strip("|").split("|")] == list(found.cells.values())
