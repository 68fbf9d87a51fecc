"""A table becomes configuration files that load, validate and train."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from cli_builders import errors, patients, run_cli, write_rows

from mdmt.cli.init import guess_columns
from mdmt.config import load_federation, load_site
from mdmt.data.tabular import read_tabular_file


def test_init_validate_simulate(tmp_path: Path) -> None:
    table = write_rows(tmp_path / "my hospital", patients(14))
    out = tmp_path / "configs"
    result = run_cli("init", "--table", table, "--out", out)
    assert result.exit_code == 0, result.output
    site, federation = load_site(out / "site.yaml"), load_federation(out / "federation.yaml")
    assert federation.sites["my-hospital"].tasks == site.tasks
    assert federation.space("scores").labels == tuple("ABCDEF")
    assert federation.space("prognosis").labels == ("MILD", "SEVERE")
    for name in ("site", "federation"):
        file = out / f"{name}.yaml"
        assert str(file) in file.read_text().splitlines()[0]
        assert run_cli("validate", file).exit_code == 0
    small = ["model.backbone=test_resnet", "model.image_size=32", "training.rounds=1"]
    small += [f"sites.my-hospital.cache_dir={tmp_path / 'cache'}"]
    sets = [part for override in small for part in ("--set", override)]
    result = run_cli("simulate", out / "federation.yaml", "--out", tmp_path / "run", *sets)
    assert result.exit_code == 0, result.output
    assert "my-hospital" in result.stdout


def test_init_never_writes_over(tmp_path: Path) -> None:
    table = write_rows(tmp_path / "a", patients())
    (tmp_path / "site.yaml").write_text("mine")
    result = run_cli("init", "--table", table, "--out", tmp_path)
    assert result.exit_code == 2
    assert "exists already" in errors(result)[0]
    assert (tmp_path / "site.yaml").read_text() == "mine"
    assert not (tmp_path / "federation.yaml").exists()


def test_paths_are_relative_to_the_files(tmp_path: Path) -> None:
    table = write_rows(tmp_path / "a", patients())
    run_cli("init", "--table", table, "--out", tmp_path)
    assert yaml.safe_load((tmp_path / "site.yaml").read_text())["dataset"]["root"] == "a"
    assert load_site(tmp_path / "site.yaml").dataset.root == tmp_path / "a"


def test_roles_of_columns(tmp_path: Path) -> None:
    rows = [
        {
            "row_id": str(number),
            "image": f"images/{number}.png",
            "Patient ID": f"p{number // 2}",
            "set": ("training", "validation")[number % 2],
            "sex": "MF"[number % 2],
            "zone_1": str(number % 3),
            "zone_2": str(number % 2),
            "total": str(number % 3 + number % 2),
            "cough": str(number % 2),
            "fever": str(number // 2 % 2),
            "diagnosis": ("viral", "bacterial", "nan")[number % 3],
            "report": f"free text {number}",
            "sha256": f"{number:064x}",
        }
        for number in range(24)
    ]
    guess = guess_columns(read_tabular_file(write_rows(tmp_path / "a", rows)))
    assert (guess.image, guess.patient, guess.split) == ("image", "Patient ID", "set")
    # There is no test split: the validation split becomes it.
    assert guess.splits == {"training": "train", "validation": "test"}
    tasks = {task.name: task for task in (*guess.tasks, *guess.others)}
    assert set(tasks) == {"zone", "total", "diagnosis", "findings"}
    assert tasks["zone"].columns == ("zone_1", "zone_2")
    assert tasks["zone"].range == (0, 2)
    assert tasks["findings"].columns == ("cough", "fever")
    assert tasks["diagnosis"].classes == ("bacterial", "viral")


@pytest.mark.parametrize(
    ("drop", "says"),
    [("images", "no column names image files"), ("labels", "no column could be a label")],
)
def test_table_without_images_or_labels(tmp_path: Path, drop: str, says: str) -> None:
    keep = {"image", "patient", "split"} if drop == "labels" else set("ABC")
    rows = patients()
    table = write_rows(tmp_path / "a", rows)
    columns = [column for column in rows[0] if column in keep]
    lines = [",".join(columns), *(",".join(row[c] for c in columns) for row in rows)]
    table.write_text("\n".join(lines))
    result = run_cli("init", "--table", table, "--out", tmp_path)
    assert result.exit_code == 2
    assert says in errors(result)[0]


def test_real_tables(covid_cxr: Path) -> None:
    brixia, hannover = (
        guess_columns(read_tabular_file(covid_cxr / site / "labels.csv"))
        for site in ("brixia-public", "hannover")
    )
    assert brixia.tasks[0].columns == tuple("ABCDEF")
    assert (brixia.image, brixia.patient, brixia.mask) == ("image", "patient_id", "mask")
    assert hannover.tasks[0].classes == ("MILD", "SEVERE")
