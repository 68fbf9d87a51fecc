"""Mistakes that people make: each gives one line, exit code 2, and the nearest right name."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import yaml
from builders import federation_dict
from cli_builders import errors, patients, run_cli, table_site, write_rows

REMOVED = object()


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a sound table."""
    root = tmp_path_factory.mktemp("mistakes")
    write_rows(root / "a", patients())
    return root


@pytest.fixture
def folder(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder: `federation.yaml` of one site with that table."""
    monkeypatch.chdir(tmp_path)
    site = table_site(data / "a", "prognosis", "severity")
    (tmp_path / "federation.yaml").write_text(yaml.safe_dump(federation_dict(sites={"a": site})))
    return tmp_path


def change(file: Path, key: str, value: Any) -> None:
    """Change, add or remove a dotted key of a YAML file."""
    whole = section = yaml.safe_load(file.read_text())
    *path, last = key.split(".")
    for part in path:
        section = section.setdefault(part, {})
    if value is REMOVED:
        del section[last]
    else:
        section[last] = copy.deepcopy(value)
    file.write_text(yaml.safe_dump(whole))


def mistake(*arguments: object) -> str:
    """Run a command that must fail with 2 and one line; give this line."""
    result = run_cli(*arguments)
    assert result.exit_code == 2, result.output
    (line,) = errors(result)
    assert not Path("runs").exists()
    return line


DATASET = "sites.a.dataset"
LABELS = "sites.a.tasks.prognosis"
KEYS: list[tuple[str, Any, str]] = [
    ("trainning", {"rounds": 1}, "trainning: no such key; did you mean training?"),
    ("training.local_epoch", 2, "training.local_epoch: no such key; did you mean local_epochs?"),
    ("training.rounds", "ten", "training.rounds: expected a whole number (it is 'ten')"),
    ("training.rounds", -1, "training.rounds: Input should be greater than 0 (it is -1)"),
    ("training.optimizer", "adan", "training.optimizer.name: expected one of 'sgd', 'adam'"),
    ("training.scheduler", "cosin", "did you mean cosine?"),
    ("training.lr", 0.1, "training.lr: no such key here; did you mean training.optimizer.lr?"),
    ("rounds", 3, "rounds: no such key here; did you mean training.rounds?"),
    ("device", "cpu", "device: no such key here; did you mean sites.NAME.device?"),
    ("training.local_epochs", 1, "local_epochs and local_steps exclude each other; keep one"),
    ("model", REMOVED, "model: this key is needed"),
    ("model.image_size", "224px", "model.image_size: expected a whole number (it is '224px')"),
    ("model.weights", "imagenet", "expected none, timm, offline or a .safetensors"),
    ("algorithm", "fedprx", "unknown algorithm fedprx; did you mean fedprox"),
    ("aggregation.weighting", "sample", "did you mean examples?"),
    ("aggregation.heads", "share", "did you mean shared?"),
    ("references", ["lokal"], "references.0: expected 'constant'"),
    ("privacy.dp.epsilon", 8, "no such key; the keys are noise_multiplier, clip, sample_rate"),
    ("preprocessing.clip", [98, 2], "expected [low, high] with low < high, not [98.0, 2.0]"),
    ("tasks.prognosis.kind", "clasification", "did you mean classification?"),
    ("tasks.prognosis.classes", ["MILD"], "tasks.prognosis.classes: expected at least 2 entries"),
    ("tasks.prognosis.classes", ["MILD", "MILD"], "the name MILD is given twice"),
    ("tasks.prognosis.classes", [0, 1], "classes.0: expected text: put it in quotes (it is 0)"),
    ("tasks.severity.range", [3, 0], "expected [low, high] with low < high, not [3.0, 0.0]"),
    ("tasks.severity.mirror", {"A": "G"}, "mirror: G is none of A, B, C, D, E, F"),
    ("sites", [{"name": "a"}], "sites: expected keys and values, such as NAME: {...}"),
    (
        "sites.my hospital",
        {"dataset": {}, "tasks": {}},
        "sites.my hospital: expected letters, digits, - and _",
    ),
    ("sites.a.device", "gpu", "expected auto, cpu, cuda, or a GPU such as cuda:0 (it is 'gpu')"),
    ("sites.a.policy.max_round", 3, "no such key; did you mean max_rounds?"),
    ("sites.a.tasks.prognosi", {}, "no such task; did you mean prognosis?"),
    (f"{LABELS}.values", {"SEVERE": "SEVER"}, "'SEVER' is no label: expected one of MILD, SEVERE"),
    (f"{LABELS}.values", {True: "SEVERE"}, "put yes, no, on, off, true and false in quotes"),
    (f"{LABELS}.columns", "prognosi", "no column prognosi (for tasks.prognosis, did you mean"),
    (f"{DATASET}.kind", "tabel", "unknown dataset kind tabel; did you mean table?"),
    (f"{DATASET}.root", "nowhere", "nowhere: no such folder, for the table labels.csv"),
    (f"{DATASET}.root", "${NOT_SETT}", "environment variable NOT_SETT is not set"),
    (f"{DATASET}.table", "label.csv", "label.csv: no such file; did you mean labels.csv?"),
    (f"{DATASET}.patient", "patient_id", "no column patient_id (for dataset.patient, did you mean"),
    (f"{DATASET}.where", {"split": "TRAIN"}, "0 of them match dataset.where"),
    (f"{DATASET}.val_fraction", 20, "val_fraction: Input should be less than 1 (it is 20)"),
]


@pytest.mark.parametrize(
    ("key", "value", "says"), KEYS, ids=[f"{key}: {says}" for key, _, says in KEYS]
)
def test_a_wrong_key_or_value(folder: Path, key: str, value: Any, says: str) -> None:
    change(folder / "federation.yaml", key, value)
    line = mistake("simulate", "federation.yaml")
    assert says in line
    assert "[and" not in line or value == [0, 1] or "hospital" in key


TEXTS = [
    (
        "foo: [1, 2\n",
        "line 2, column 1: expected ',' or ']', but got '<stream end>' in what",
    ),
    ("foo:\n\tbar: 1\n", "line 2, column 1: found character '\\t' that cannot start any token: in"),
    ("foo: 1\nfoo: 2\n", "line 2, column 1: the key foo is given twice"),
    ("", "expected keys and values"),
    ("hello", "expected keys and values"),
    ("name: é", "not UTF-8 text; save the file as UTF-8"),
]


@pytest.mark.parametrize(("text", "says"), TEXTS)
def test_a_text_that_is_no_configuration(folder: Path, text: str, says: str) -> None:
    (folder / "wrong.yaml").write_text(text, encoding="latin-1")
    line = mistake("simulate", "wrong.yaml")
    assert line.startswith("error: wrong.yaml: ")
    assert says in line


TABLES = [
    (("image,", "picture,"), "no column image (for dataset.image)"),
    (("p3,train,SEVERE", "p3,train,Severe"), "add values: {Severe: SEVERE}"),
    (("p3,train,SEVERE,3", "p3,train,SEVERE,4"), "labels.csv:5: column A: '4' is no label"),
    (("images/3.png", "images/3.jpg"), "did you mean"),
    (("p3,train", "p3,training"), "'training' is not a split: expected train, val, test"),
    (("p3,train", ",train"), "labels.csv:5: column patient: no patient id"),
    (("p3,train", "p9,train"), "patient p9 is in test here and in train in labels.csv:5"),
    (("images/3.png", "images/2.png"), "is already in labels.csv:4; keep one row per image"),
    (("p3,train", "p3;train"), "labels.csv:5: the row has 9 cells, the header has 10"),
    (("p3,train", '"p3,train'), "a quotation mark is opened and not closed"),
    (("patient,", "split,"), "two columns are called split; rename one"),
]


@pytest.mark.parametrize(("change_", "says"), TABLES, ids=[says for _, says in TABLES])
def test_a_wrong_table(folder: Path, data: Path, change_: tuple[str, str], says: str) -> None:
    text = (data / "a" / "labels.csv").read_text()
    assert change_[0] in text
    (data / "a" / "wrong.csv").write_text(text.replace(*change_, 1))
    change(folder / "federation.yaml", f"{DATASET}.table", "wrong.csv")
    line = mistake("simulate", "federation.yaml").replace("wrong.csv", "labels.csv")
    assert says in line


COMMANDS = [
    (("simulat", "demo"), "no such command simulat; did you mean simulate? see mdmt --help"),
    (("server", "statsu"), "no such command statsu; did you mean status"),
    (("simulate", "demo", "--worker", "2"), "no such option --worker; did you mean --workers?"),
    (("simulate", "demo", "--workers", "0"), "--workers: 0 is not in the range x>=1"),
    (("simulate", "demo", "--engine", "inproces"), "did you mean inprocess?"),
    (("simulate", "demo", "--out"), "option --out requires an argument"),
    (("simulate", "demo", "--out", "federation.yaml"), "is a file; choose another --out"),
    (("simulate", "demo", "--resume"), "runs/demo: no run to resume"),
    (("simulate", "demo", "--set", "rounds"), "expected KEY.KEY=VALUE"),
    (("simulate", "demo", "--set", "rounds=3"), "did you mean training.rounds?"),
    (("simulate", "demo", "--set", "trainig.rounds=3"), "did you mean training?"),
    (("simulate", "demo", "--set", "sites.lung-clinc.device=cpu"), "did you mean lung-clinic?"),
    (("simulate", "demoo"), "demoo: no such file; did you mean demo?"),
    (("simulate", "federation.yml"), "did you mean federation.yaml?"),
    (("simulate", "."), ".: is a folder; give a YAML file in it"),
    (("validate", "federation.yml"), "did you mean federation.yaml?"),
    (("study", "synthetik"), "did you mean synthetic?"),
    (("study", "synthetic", "--set", "arms=[lokal]"), "did you mean local?"),
    (("study", "federation.yaml"), "describes a federation, not a study"),
    (("show", "."), "not a run directory; it has no federation.yaml"),
    (("predict", ".", "x.png", "--out", "p.csv"), "not a release; give the release/ folder"),
    (("init",), "missing option --table; see mdmt init --help"),
    (("init", "--table", "a.csv", "--out", "o"), "a.csv: no such file"),
]


@pytest.mark.parametrize(("arguments", "says"), COMMANDS, ids=lambda value: str(value)[:60])
def test_a_wrong_command(folder: Path, arguments: tuple[str, ...], says: str) -> None:
    if arguments == ("show", "."):
        (folder / "federation.yaml").unlink()
    assert says in mistake(*arguments)


def test_a_group_without_a_command_shows_its_help() -> None:
    assert "Usage" in run_cli("server").output
