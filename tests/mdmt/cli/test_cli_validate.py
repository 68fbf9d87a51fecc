"""Validation: what is there and what is wrong; exit code 2 when training would be wrong."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from builders import PROGNOSIS
from cli_builders import errors, patients, run_cli, table_site, write_rows


def test_counts_of_what_can_be_used(write_federation: Callable[..., Path], tmp_path: Path) -> None:
    write_rows(tmp_path / "a", patients())
    file = write_federation(sites={"a": table_site(tmp_path / "a", "prognosis", "severity")})
    result = run_cli("validate", file)
    assert result.exit_code == 0, result.output
    rows = [line.split() for line in result.stdout.splitlines()]
    assert ["images", "6", "2", "2"] in rows
    assert ["prognosis:", "prognosis", "=", "MILD", "3", "1", "1"] in rows


def test_issues_are_listed_for_a_site_file(tmp_path: Path) -> None:
    write_rows(tmp_path / "a", patients())
    (tmp_path / "a" / "images" / "0.png").write_text("no image")
    (tmp_path / "a" / "images" / "1.png").write_bytes(b"")
    site = table_site(tmp_path / "a") | {"name": "a", "tasks": {"prognosis": PROGNOSIS}}
    file = tmp_path / "site.yaml"
    file.write_text(yaml.safe_dump(site))
    result = run_cli("validate", file)
    assert result.exit_code == 2
    found = [line for line in result.stdout.splitlines() if line.lstrip().startswith("error ")]
    assert ["0.png" in found[0], "1.png" in found[1]] == [True, True]


def test_what_registration_would_refuse(
    write_federation: Callable[..., Path], tmp_path: Path
) -> None:
    write_rows(tmp_path / "a", patients())
    site = table_site(tmp_path / "a")
    site["tasks"] = {
        "prognosis": PROGNOSIS | {"classes": ["SEVERE", "MILD"]},
        "gender": {"kind": "classification", "classes": ["M", "F"]},
    }
    result = run_cli("validate", write_federation(sites={"a": site}))
    assert result.exit_code == 2
    for says in (
        "site a disagrees on the task prognosis",
        "site a offers the task gender",
        "no site offers the task severity",
    ):
        assert says in result.stdout


def test_neither_site_nor_federation(tmp_path: Path) -> None:
    file = tmp_path / "notes.yaml"
    file.write_text("hello: world")
    result = run_cli("validate", file)
    assert result.exit_code == 2
    (line,) = errors(result)
    assert "notes.yaml" in line


def test_equal_issues_are_one_line_with_the_line_to_add(
    write_federation: Callable[..., Path], tmp_path: Path
) -> None:
    table = write_rows(tmp_path / "a", patients())
    table.write_text(table.read_text().replace("SEVERE", "Severe"))
    site = table_site(tmp_path / "a", "prognosis", "severity")
    result = run_cli("validate", write_federation(sites={"a": site}))
    assert result.exit_code == 2
    (line,) = [line for line in result.stdout.splitlines() if line.lstrip().startswith("error ")]
    assert "and 4 more" in line
    assert "add values: {Severe: SEVERE}" in " ".join(result.stdout.split())


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ({"backbone": "test_resnett"}, "unknown backbone test_resnett; did you mean test_resnet"),
        ({"weights": "absent.safetensors"}, "no such file"),
    ],
)
def test_the_model_is_built(
    write_federation: Callable[..., Path], tmp_path: Path, override: dict[str, str], says: str
) -> None:
    write_rows(tmp_path / "a", patients())
    file = write_federation(sites={"a": table_site(tmp_path / "a", "prognosis", "severity")})
    data = yaml.safe_load(file.read_text())
    data["model"] |= override
    file.write_text(yaml.safe_dump(data))
    result = run_cli("validate", file)
    assert result.exit_code == 2
    assert says in result.stdout


def test_a_mistaken_file_is_named(write_federation: Callable[..., Path], tmp_path: Path) -> None:
    write_rows(tmp_path / "a", patients())
    site = tmp_path / "site.yaml"
    keys = table_site(tmp_path / "a") | {"name": "a", "tasks": {"prognosis": PROGNOSIS}}
    site.write_text(yaml.safe_dump(keys))
    result = run_cli("simulate", site, "--out", tmp_path / "run")
    assert result.exit_code == 2
    assert "describes a site, not a federation" in errors(result)[0]
    result = run_cli("study", write_federation(), "--out", tmp_path / "study")
    assert result.exit_code == 2
    assert "describes a federation, not a study" in errors(result)[0]
