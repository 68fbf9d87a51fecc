"""`mdmt site audit`: what left, and whether the log of it is whole."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from blobs import pack_record
from cli_builders import run_cli, write_kit_facts
from flwr.app import ConfigRecord, Error, Message, RecordDict
from numpy import float32

from client.deployment.audit import open_audit_log
from mdmt.config import load_site
from mdmt.deployment.kits import open_site_kit
from simulation.engine import task_identity

REPORT = {
    "site": "ward",
    "round": 1,
    "validation": {"outcome/examples": 12, "outcome/auroc": 0.75, "outcome/f1": None},
    "losses": {"outcome": 0.5},
}


@pytest.fixture
def kit(tmp_path: Path) -> Path:
    """A site's kit whose log holds a training report and an error."""
    folder = tmp_path / "kit"
    write_kit_facts(folder)
    task = {"kind": "classification", "classes": ["MILD", "SEVERE"]}
    site = {"name": "ward", "dataset": {"kind": "synthetic"}, "tasks": {"outcome": task}}
    site["state_dir"] = str(tmp_path / "state")
    (folder / "site.yaml").write_text(yaml.safe_dump(site))
    return folder


def send(kit: Path, **changes: object) -> None:
    opened = open_site_kit(kit)
    log = open_audit_log(opened, load_site(opened.site_file))
    with task_identity():
        asked = Message(RecordDict({"config": ConfigRecord({"order": '{"round": 1}'})}), 2, "train")
        content = RecordDict({"report": ConfigRecord({"json": json.dumps(REPORT | changes)})})
        content["arrays"] = pack_record({"backbone.w": float32([[1, 2]])})
        log.record(Message(content, reply_to=asked), asked)
        log.record(Message(Error(2, "policy: max_rounds allows 1"), reply_to=asked), asked)


def test_a_log_that_is_whole(kit: Path) -> None:
    send(kit)
    result = run_cli("site", "audit", kit)
    assert result.exit_code == 0, result.output
    head = json.loads((kit / "audit-head.json").read_text())
    verdict, *table = result.stdout.splitlines()
    assert "intact: 2 messages since 20" in verdict
    assert f"head {head['hash']}" in verdict
    report, error = (line for line in table if " train " in line)
    assert "outcome/examples 12, validation outcome/auroc 0.75, losses outcome 0.5" in report
    assert report.split()[1:5] == ["1", "train", "-", "1"]
    assert "error: policy: max_rounds allows 1" in error


def test_json_names_every_array_and_value(kit: Path) -> None:
    send(kit)
    result = run_cli("site", "audit", kit, "--json")
    first, second = map(json.loads, result.stdout.splitlines())
    assert first["arrays"]["backbone.w"][:2] == ["F32", [1, 2]]
    assert first["report"] == REPORT
    assert second["error"] == "policy: max_rounds allows 1"
    assert "intact: 2 messages" in result.stderr


def test_a_changed_line_is_named(kit: Path, tmp_path: Path) -> None:
    send(kit)
    log = tmp_path / "state" / "audit.jsonl"
    log.write_text(log.read_text().replace("0.75", "0.85"))
    result = run_cli("site", "audit", kit)
    assert result.exit_code == 1
    assert "audit.jsonl: line 2: does not follow the line before" in result.stdout
    assert "intact" not in result.stdout
    assert "0.85" in result.stdout, "what the log says now is still shown"


def test_a_log_that_is_gone_is_found(kit: Path, tmp_path: Path) -> None:
    assert "nothing has left this site yet" in run_cli("site", "audit", kit).stdout
    send(kit)
    (tmp_path / "state" / "audit.jsonl").unlink()
    result = run_cli("site", "audit", kit)
    assert result.exit_code == 1
    assert "line 1: 2 of 2 lines are missing" in result.stdout
    assert "nothing has left" not in result.stdout


def test_a_damaged_head_is_found(kit: Path) -> None:
    send(kit)
    (kit / "audit-head.json").write_text("")
    result = run_cli("site", "audit", kit)
    assert result.exit_code == 1
    assert "audit-head.json is damaged" in result.stdout


def test_a_noted_head_is_still_a_line(kit: Path) -> None:
    send(kit)
    head = json.loads((kit / "audit-head.json").read_text())["hash"]
    send(kit)
    result = run_cli("site", "audit", kit, "--expect", head)
    assert result.exit_code == 0, result.output
    assert f"line 2 has the hash {head}" in result.stdout


def test_log_and_head_that_were_removed_together_are_found_out(kit: Path, tmp_path: Path) -> None:
    send(kit)
    head = json.loads((kit / "audit-head.json").read_text())["hash"]
    (kit / "audit-head.json").unlink()
    (tmp_path / "state" / "audit.jsonl").unlink()
    assert run_cli("site", "audit", kit).exit_code == 0, "nothing at the site shows it"
    send(kit, round=2)
    result = run_cli("site", "audit", kit, "--expect", head)
    assert result.exit_code == 1
    assert f"no line has the hash {head}" in result.stdout
    assert "intact" not in result.stdout


@pytest.mark.parametrize("head", ["", "abc", "g" * 64, "\x1b[31m"])
def test_a_head_that_cannot_be_one(kit: Path, head: str) -> None:
    result = run_cli("site", "audit", kit, "--expect", head)
    assert result.exit_code == 2
    assert "a head has 64 digits" in result.stderr


def test_a_folder_that_is_no_kit(tmp_path: Path) -> None:
    result = run_cli("site", "audit", tmp_path)
    assert result.exit_code == 2
    assert "not a site's kit" in result.stderr
