"""A release is tested on new labelled data of one site."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from builders import PROGNOSIS
from cli_builders import errors, patients, run_cli, table_site, write_rows

from mdmt.data.subgroups import subgroups
from mdmt.metrics import evaluate_task
from mdmt.releases import open_release


def rows(count: int = 40) -> list[dict[str, str]]:
    """Forty patients: 35 women and 5 men, ages from 30 to 69."""
    return [
        row | {"sex": "M" if n % 7 == 6 else "F", "age": f"{30 + n}", "ward": f"w{n}"}
        for n, row in enumerate(patients(count))
    ]


@pytest.fixture
def table(tmp_path: Path) -> Path:
    return write_rows(tmp_path / "new", rows())


def read(path: Path) -> Any:
    return json.loads(path.read_text())


def test_a_table_is_enough(finished_run: Path, tmp_path: Path, table: Path) -> None:
    """The columns have the names of the labels; every row counts, whatever its split."""
    out = tmp_path / "e.json"
    given = ("--by", "sex", "--by", "age", "--by", "ward", "--out", out)
    result = run_cli("evaluate", finished_run, table, *given)
    assert result.exit_code == 0, result.output
    found = read(out)
    assert set(found["tasks"]) == {"prognosis", "severity"}
    assert set(found["tasks"]["prognosis"]) == {"hospital", "infirmary"}
    everyone = found["tasks"]["prognosis"]["hospital"]["all"]
    assert (everyone["patients"], everyone["examples"]) == (40, 40)
    auroc = everyone["metrics"]["auroc"]
    assert auroc["low"] <= auroc["value"] <= auroc["high"]
    groups = found["tasks"]["severity"]["clinic"]["subgroups"]
    assert set(groups) == {"sex", "age"}  # a ward for each patient is no subgroup
    # Five men are fewer than ten: withheld, and so is the other group, as one could subtract it.
    assert {g: of["patients"] for g, of in groups["sex"].items()} == {"F": None, "M": None}
    assert groups["sex"]["F"]["metrics"] == {}
    ages = {g: of["patients"] for g, of in groups["age"].items()}
    assert ages == {"20-39": 10, "40-59": 20, "60-79": 10}
    text = out.read_text()
    assert "p17" not in text  # no patient
    assert str(tmp_path) not in text  # no path
    assert max(len(line) for line in result.stdout.splitlines() if "e.json" not in line) <= 80


def test_the_metrics_are_those_of_the_predictions(
    finished_run: Path, tmp_path: Path, table: Path
) -> None:
    run_cli("evaluate", finished_run, table, "--out", tmp_path / "e.json")
    folder = table.parent / "images"
    run_cli("predict", finished_run, folder, "--out", tmp_path / "p.csv")
    lines = [line.split(",") for line in (tmp_path / "p.csv").read_text().splitlines()]
    columns = [lines[0].index(f"severity.{zone}") for zone in "ABCDEF"]
    by_name = {Path(line[0]).name: [float(line[c]) for c in columns] for line in lines[1:]}
    made = rows()
    predictions = np.array([by_name[Path(row["image"]).name] for row in made])
    targets = np.array([[float(row[zone]) for zone in "ABCDEF"] for row in made])
    space = open_release(finished_run / "release").config.space("severity")
    expected = evaluate_task(space, predictions, targets)["mae"]
    found = read(tmp_path / "e.json")["tasks"]["severity"]["clinic"]["all"]["metrics"]["mae"]
    assert found["value"] == pytest.approx(expected, abs=1e-4)


def test_a_site_file_has_its_own_columns_and_policy(finished_run: Path, tmp_path: Path) -> None:
    made = [row | {"icu": "10"[row["prognosis"] == "MILD"]} for row in rows(12)]
    write_rows(tmp_path / "new", made)
    site = table_site(tmp_path / "new") | {"name": "ward"}
    own = {"columns": "icu", "values": {"1": "SEVERE", "0": "MILD"}}
    site["tasks"] = {"prognosis": PROGNOSIS | own}
    file = tmp_path / "site.yaml"
    for least, counted in ((0, 12), (13, None)):
        site["policy"] = {"min_examples_per_metric": least}
        file.write_text(yaml.safe_dump(site))
        out = tmp_path / f"{least}.json"
        result = run_cli("evaluate", finished_run, file, "--out", out)
        assert result.exit_code == 0, result.output
        found = read(out)["tasks"]["prognosis"]["hospital"]["all"]
        assert found["patients"] == counted
        # Six patients of a class are too few for an interval.
        assert "low" not in found["metrics"].get("auroc", {})


def test_refusals(finished_run: Path, tmp_path: Path, table: Path) -> None:
    site = table_site(table.parent) | {"name": "ward"}
    site["tasks"] = {"prognosis": PROGNOSIS | {"classes": ["SEVERE", "MILD"]}}
    (tmp_path / "swapped.yaml").write_text(yaml.safe_dump(site))
    other = [{k: v for k, v in row.items() if k not in "ABCDEF"} for row in rows()]
    unlabelled = write_rows(tmp_path / "other", [r | {"prognosis": r["sex"]} for r in other])
    out = tmp_path / "e.json"
    cases = [
        ((finished_run, tmp_path / "gone.csv", "--out", out), "gone.csv: no such file"),
        ((finished_run, tmp_path / "swapped.yaml", "--out", out), "task prognosis: classes is"),
        ((finished_run, unlabelled, "--out", out), "'F' is no label of prognosis"),
        ((finished_run, table, "--by", "sexx", "--out", out), "did you mean sex?"),
        ((finished_run, table, "--out", table), "exists already"),
        ((tmp_path, table, "--out", out), "not a release"),
    ]
    for arguments, says in cases:
        result = run_cli("evaluate", *arguments)
        assert result.exit_code == 2, result.output
        (line,) = errors(result)
        assert says in line
        assert not out.exists()


def test_subgroups_of_texts_and_numbers() -> None:
    cells = {
        "sex": ["M", "F", "n/a", "F"] * 5,
        "same": ["x"] * 20,
        "age": [f"{20 + n}Y" for n in range(19)] + [""],
    }
    found = subgroups({name: np.array(texts) for name, texts in cells.items()})
    assert set(found) == {"sex", "age"}
    assert found["sex"][:4].tolist() == ["M", "F", "unknown", "F"]
    assert set(found["age"].tolist()) == {"20-39", "unknown"}
