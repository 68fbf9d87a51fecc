"""``mdmt provision`` says what it made and what it kept."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from cli_builders import errors, run_cli


def rows(output: str) -> dict[str, str]:
    cells = [line.split() for line in output.splitlines()]
    return {row[0]: row[1] for row in cells if len(row) > 2 and row[1] in {"made", "kept"}}


def test_kits_of_a_shipped_federation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    result = run_cli("provision", "demo", "--server", "localhost:9092")
    assert result.exit_code == 0, result.output
    names = ["ca", "server", "city-hospital", "lung-clinic"]
    assert rows(result.stdout) == dict.fromkeys(names, "made")
    for command in ("mdmt server start kits/server", "mdmt site join", "mdmt server admit"):
        assert command in result.stdout
    again = run_cli("provision", "demo", "--server", "localhost:9092", "--site", "third")
    assert rows(again.stdout) == dict.fromkeys(names, "kept") | {"third": "made"}


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["nowhere.yaml", "--server", "localhost:9092"], "nowhere.yaml: no such file"),
        (["demo", "--server", "localhost"], "localhost: expected HOST:PORT"),
        (["demo", "--server", "localhost:9092", "--site", "a/b"], "--site a/b"),
    ],
)
def test_bad_input_is_one_line_and_writes_nothing(
    arguments: list[str], says: str, tmp_path: Path
) -> None:
    result = run_cli("provision", *arguments, "--out", tmp_path / "kits")
    assert result.exit_code == 2
    (line,) = errors(result)
    assert says in line
    assert not (tmp_path / "kits").exists()


def test_a_federation_without_sites_needs_names(
    write_federation: Callable[..., Path], tmp_path: Path
) -> None:
    file = write_federation()
    arguments = ["provision", file, "--server", "localhost:9092", "--out", tmp_path / "kits"]
    result = run_cli(*arguments)
    assert result.exit_code == 2
    assert "add --site NAME" in errors(result)[0]
    assert run_cli(*arguments, "--site", "a", "--site", "b").exit_code == 0
