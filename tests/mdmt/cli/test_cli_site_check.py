"""``mdmt site check``: a table, a line for each failure, and the exit code."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from builders import PROGNOSIS
from cli_builders import errors, patients, run_cli, table_site, write_rows
from deployment import make_kits, serve

from mdmt.deployment.kits import ServerKit, split_address


@pytest.fixture
def server(tmp_path: Path) -> ServerKit:
    server = make_kits(tmp_path / "kits")
    write_rows(tmp_path / "data", patients(14))
    site = table_site(tmp_path / "data") | {"name": "clinic", "tasks": {"prognosis": PROGNOSIS}}
    file = tmp_path / "kits" / "sites" / "clinic" / "site.yaml"
    file.write_text(yaml.safe_dump(site | {"state_dir": "state"}))
    return server


def test_a_fit_site(server: ServerKit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    known = {"/v1/fleet/activate-node": (400, b'{"code": 2003, "detail": "Invalid"}')}
    port = split_address(server.facts.server)[1]
    monkeypatch.chdir(tmp_path / "kits" / "sites" / "clinic")
    with serve(port, server.certificate, server.private_key, answers=known):
        result = run_cli("site", "check")
    assert result.exit_code == 0, result.output
    cells = [line.split() for line in result.stdout.splitlines()]
    found = [row[1] for row in cells if row and row[0] in {"address", "registered", "versions"}]
    assert found == ["pass", "pass", "pass"]
    assert errors(result) == []


def test_each_failure_is_one_line_with_its_remedy(server: ServerKit, tmp_path: Path) -> None:
    (tmp_path / "data" / "labels.csv").unlink()
    result = run_cli("site", "check", tmp_path / "kits" / "sites" / "clinic")
    assert result.exit_code == 2
    lines = {line.split(": ")[1]: line for line in errors(result)}
    assert list(lines) == ["address", "certificate", "server", "clock", "registered", "dataset"]
    assert "refused the connection" in lines["address"]
    assert "labels.csv: no such file" in lines["dataset"]
    assert lines["dataset"].endswith("; mdmt validate site.yaml lists all")


def test_what_is_no_sites_kit(server: ServerKit) -> None:
    result = run_cli("site", "check", server.folder)
    assert result.exit_code == 2
    assert errors(result) == [f"error: {server.folder}: this is a server's kit, not a site's"]
