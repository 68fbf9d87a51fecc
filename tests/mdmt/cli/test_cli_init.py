"""A table becomes configuration files that load, validate and train."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from cli_builders import errors, patients, run_cli, write_rows

from mdmt.config import load_federation, load_site
from mdmt.data.guess import Guess, Named, guess_columns
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
    tasks = {task.name: task for task in guess.tasks}
    assert set(tasks) == {"diagnosis"}
    assert guess.skipped["total"] == "could be a label: --label 'total'"
    assert guess.skipped["sex"] == "its name describes the person, the place or the device"
    assert guess.skipped["report"] == "24 different texts"
    assert guess.skipped["row_id"] == "its name describes the person, the place or the device"
    named = Named(labels=("zone_1", "zone_2", "diagnosis", "cough", "fever"))
    guess = guess_columns(read_tabular_file(tmp_path / "a" / "labels.csv"), named)
    tasks = {task.name: task for task in guess.tasks}
    assert set(tasks) == {"zone", "diagnosis", "findings"}
    assert tasks["zone"].columns == ("zone_1", "zone_2")
    assert tasks["zone"].range == (0, 2)
    assert tasks["findings"].columns == ("cough", "fever")
    assert tasks["diagnosis"].labels == ("bacterial", "viral")


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
    assert hannover.tasks[0].labels == ("MILD", "SEVERE")


def guess_of(tmp_path: Path, **columns: list[str]) -> Guess:
    rows = [
        {"image": f"images/{n}.png", "patient": f"p{n}"}
        | {column: cells[n % len(cells)] for column, cells in columns.items()}
        for n in range(24)
    ]
    return guess_columns(read_tabular_file(write_rows(tmp_path / "a", rows)))


@pytest.mark.parametrize("word", ["?", "-", "N/A", "None", "null", "unknown"])
def test_a_missing_word_is_no_class(tmp_path: Path, word: str) -> None:
    (task,) = guess_of(tmp_path, outcome=["0", "1", word]).tasks
    assert (task.kind, task.labels, task.values) == ("multilabel", ("outcome",), {word: ""})


@pytest.mark.parametrize(
    ("cells", "missing"),
    [(["0", "1", "-1"], "-1"), (["0.0", "1.0", "-1.0"], "-1.0"), (["0", "1", "9"], "9")],
)
def test_a_number_far_from_the_others_is_missing(
    tmp_path: Path, cells: list[str], missing: str
) -> None:
    (task,) = guess_of(tmp_path, outcome=cells).tasks
    assert (task.kind, task.values) == ("multilabel", {missing: ""})


def test_scores_up_to_nine_have_no_missing_value(tmp_path: Path) -> None:
    (task,) = guess_of(tmp_path, score=list("0123456789")).tasks
    assert (task.kind, task.range, task.values) == ("regression", (0, 9), {})


def test_findings_in_one_column_are_split(tmp_path: Path) -> None:
    (task,) = guess_of(tmp_path, **{"Finding Labels": ["A|B", "No Finding", "B", "C"]}).tasks
    assert (task.kind, task.labels, task.separator) == ("multilabel", ("A", "B", "C"), "|")
    assert task.values == {"No Finding": ""}


def test_decimal_commas_are_numbers(tmp_path: Path) -> None:
    (task,) = guess_of(tmp_path, score=["0,5", "1,5", "2,25"]).tasks
    assert (task.kind, task.range) == ("regression", (0, 3))


def test_a_view_is_no_task_and_age_only_if_it_is_named(tmp_path: Path) -> None:
    cells = {"Frontal/Lateral": ["F", "L"], "age": [str(n) for n in range(20, 90, 3)]}
    guess = guess_of(tmp_path, edema=["1", "0"], **cells)
    assert [task.name for task in guess.tasks] == ["edema"]
    assert "describes" in guess.skipped["Frontal/Lateral"]
    table = tmp_path / "a" / "labels.csv"
    result = run_cli("init", "--table", table, "--out", tmp_path / "o", "--label", "age")
    assert result.exit_code == 0, result.output
    assert load_site(tmp_path / "o" / "site.yaml").tasks["age"].space.range == (20, 89)


def test_a_blank_patient_id_does_not_hide_the_column(tmp_path: Path) -> None:
    guess = guess_of(tmp_path, outcome=["0", "1"], **{"patient": ["p1", "", "p2", "p3"]})
    assert guess.patient == "patient"
    assert guess.notes == ("6 rows have no patient, the first is labels.csv:3: fill them in",)


def test_a_wrong_column_gets_the_nearest_name(tmp_path: Path) -> None:
    table = write_rows(tmp_path / "a", patients())
    result = run_cli("init", "--table", table, "--out", tmp_path, "--label", "prognosys")
    assert result.exit_code == 2
    assert "no column prognosys; did you mean prognosis?" in errors(result)[0]


def test_two_tables_become_two_sites_of_one_federation(tmp_path: Path) -> None:
    tables = [write_rows(tmp_path / name, patients(14)) for name in ("north", "south")]
    text = tables[1].read_text().replace("prognosis", "grade").replace("MILD", "low")
    tables[1].write_text(text)
    given = [part for table in tables for part in ("--table", table)]
    result = run_cli("init", *given, "--out", tmp_path / "o")
    assert result.exit_code == 0, result.output
    federation = load_federation(tmp_path / "o" / "federation.yaml")
    assert list(federation.tasks) == ["prognosis", "scores", "grade"]
    assert set(federation.sites["north"].tasks) == {"prognosis", "scores"}
    assert set(federation.sites["south"].tasks) == {"grade", "scores"}
    for name in ("north", "south"):
        assert load_site(tmp_path / "o" / f"site-{name}.yaml").name == name
    assert run_cli("validate", tmp_path / "o" / "federation.yaml").exit_code == 0


def test_equal_names_with_other_classes_stay_two_tasks(tmp_path: Path) -> None:
    tables = [write_rows(tmp_path / name, patients(14)) for name in ("north", "south")]
    tables[1].write_text(tables[1].read_text().replace("MILD", "low"))
    given = [part for table in tables for part in ("--table", table)]
    assert run_cli("init", *given, "--out", tmp_path / "o").exit_code == 0
    federation = load_federation(tmp_path / "o" / "federation.yaml")
    assert set(federation.sites["south"].tasks) == {"prognosis-south", "scores"}
