"""Bad input of the paper's two datasets: one line naming the row, exit code 2, through validate."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from cli_builders import run_cli
from published_builders import (
    AFC_HEADER,
    AFC_ROWS,
    BRIXIA_HEADER,
    BRIXIA_ROWS,
    aiforcovid_site,
    brixia_site,
    write_aiforcovid,
    write_brixia,
    write_split_files,
)


def validate(tmp_path: Path, site: dict[str, Any]) -> tuple[int, str]:
    file = tmp_path / "site.yaml"
    file.write_text(yaml.safe_dump(site))
    result = run_cli("validate", file)
    assert "Traceback" not in result.output
    return result.exit_code, " ".join(result.stdout.split())


def score(text: str) -> list[str]:
    return [BRIXIA_ROWS[0].replace("013112", text), *BRIXIA_ROWS[1:]]


def test_sound_datasets_are_valid(tmp_path: Path) -> None:
    for site in (
        brixia_site(write_brixia(tmp_path / "bx")),
        aiforcovid_site(write_aiforcovid(tmp_path / "afc")),
    ):
        assert validate(tmp_path, site)[0] == 0


@pytest.mark.parametrize(
    ("rows", "header", "message"),
    [
        (BRIXIA_ROWS, BRIXIA_HEADER.replace("BrixiaScore", "Score"), "no column BrixiaScore"),
        (score("0131121"), BRIXIA_HEADER, "csv:2 '0131121' is not a Brixia score; expected six"),
        (score("013142"), BRIXIA_HEADER, "csv:2 '013142' has 4 in zone E: scores are 0 to 3"),
        ([*BRIXIA_ROWS, "99.dcm;AGFA;000000;0;s99;F"], BRIXIA_HEADER, "99.dcm is not a file"),
        ([*BRIXIA_ROWS, BRIXIA_ROWS[0]], BRIXIA_HEADER, "is already in metadata_global_v2.csv:2"),
        ([*BRIXIA_ROWS[:-1], "11.dcm;;1;0;s11;F"], BRIXIA_HEADER, "unknown manufacturer ''"),
    ],
)
def test_bad_brixia_is_refused(
    tmp_path: Path, rows: list[str], header: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "400")
    root = write_brixia(tmp_path / "bx", rows, header=header)
    code, printed = validate(tmp_path, brixia_site(root))
    assert code == 2
    assert message in printed


@pytest.mark.parametrize(
    ("rows", "header", "message"),
    [
        (AFC_ROWS, (*AFC_HEADER[:-1], "Outcome"), "no column Prognosis"),
        ([*AFC_ROWS, (13, "P_77", "A", 5, 0, "MILD")], AFC_HEADER, "P_77.dcm is not a file"),
        (
            [*AFC_ROWS[:-1], (11, "P_11", "G", 5, 0, "MILD")],
            AFC_HEADER,
            "AIforCOVID.xlsx:13 column Hospital: unknown hospital 'G'; expected A to F",
        ),
        ([*AFC_ROWS, AFC_ROWS[0]], AFC_HEADER, "P_0 is already in AIforCOVID.xlsx:2"),
        (
            [*AFC_ROWS[:-1], (11, "P_11", "C", 5, 0, "DEAD")],
            AFC_HEADER,
            "'DEAD' is no label of prognosis: expected one of MILD, SEVERE",
        ),
    ],
)
def test_bad_aiforcovid_is_refused(
    tmp_path: Path, rows: Any, header: Any, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "400")
    root = write_aiforcovid(tmp_path / "afc", rows, header=header)
    code, printed = validate(tmp_path, aiforcovid_site(root))
    assert code == 2
    assert message in printed


def test_split_files_whose_test_lacks_a_class_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "400")
    root = write_aiforcovid(tmp_path / "afc")
    lines = [f"{row[1]} {row[-1]} {row[2]}" for row in AFC_ROWS]
    folder = root / "folds" / "0"
    write_split_files(folder, "img label center", train=lines[:9], val=lines[9:11], test=lines[11:])
    code, printed = validate(tmp_path, aiforcovid_site(root, split_files="folds/0"))
    assert code == 2
    assert "task prognosis: no MILD in the test split" in printed


def test_an_unknown_structure_is_an_error_and_no_default(tmp_path: Path) -> None:
    file = tmp_path / "site.yaml"
    file.write_text(yaml.safe_dump(brixia_site(tmp_path, structure="Zones")))
    result = run_cli("validate", file)
    assert result.exit_code == 2
    assert "dataset.structure: " in result.stderr
    assert "'zones', 'lungs' or 'global'" in result.stderr
