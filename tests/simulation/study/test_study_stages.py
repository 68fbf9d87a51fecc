"""Studies of several parts: development and confirmation, fractions of the patients."""

from __future__ import annotations

import csv
import json

import numpy as np
import pytest
from cli_builders import run_cli

import mdmt.results.gains
import simulation.study.cells
import simulation.study.statistics
from mdmt.errors import RunError
from mdmt.report import write_report
from simulation.study.bench import Outcome
from simulation.study.runner import run_study

ARMS = ["constant", "local", "probe", "federated", {"kind": "federated", "name": "other"}]
SKILL = {"constant": 0.0, "local": 0.2, "probe": 0.1, "federated": 0.4, "other": 0.3}


@pytest.fixture
def drawn(monkeypatch):
    """Arms that train nothing: the better the arm's skill, the nearer its predictions."""

    def predict(bench):
        outcome = Outcome()
        for site, cohort in bench.cohorts.items():
            test = cohort.manifest.indices("test")
            for task in bench.tasks(site):
                skill = SKILL[bench.arm.label]
                space = bench.config.space(task)
                truth = space.truth(cohort.manifest.targets[task].astype(float))
                noise = np.random.default_rng(bench.config.seed).uniform(size=truth.shape)
                outcome.predictions[site, task] = (skill * truth + (1 - skill) * noise)[test]
        return outcome

    for kind in ("constant", "local", "probe", "federated"):
        monkeypatch.setitem(simulation.study.cells.ARMS, kind, predict)
    monkeypatch.setattr(mdmt.results.gains, "RESAMPLES", 20)
    # Bootstrapping each model would take most of the time, and is tested elsewhere.
    no_interval = lambda *arguments, **options: (None, None)  # noqa: E731
    monkeypatch.setattr(simulation.study.statistics, "bootstrap_interval", no_interval)


def cells_of(folder):
    with (folder / "results.csv").open() as file:
        return {(row["arm"], row["fold"], row["seed"]) for row in csv.DictReader(file)}


@pytest.fixture
def protocol(load):
    """The best federated arm on fold 0 is confirmed on folds 1 and 2."""
    return lambda **changes: load(
        arms=ARMS,
        comparators=["local", "probe"],
        targets=["prognosis", "severity"],
        folds={"kind": "k_fold", "k": 3},
        seeds=[0, 1],
        development=[0],
        **changes,
    )


def test_what_is_chosen_on_development_folds_is_confirmed_on_the_others(protocol, drawn, tmp_path):
    study, out = protocol(), tmp_path / "out"
    run_study(study, out, workers=0)
    labels = ["constant", "local", "probe", "federated", "other"]
    assert cells_of(out / "development") == {(arm, "0", "0") for arm in labels}
    choice = json.loads((out / "choice.json").read_text())
    assert choice["arm"] == "federated"
    assert choice["comparators"] == {"prognosis": "local", "severity": "local"}
    assert choice["endpoints"]["federated"]["gain"] > choice["endpoints"]["other"]["gain"]
    assert cells_of(out) == {
        (arm, fold, seed)
        for arm in ("constant", "local", "probe", "federated")
        for fold in "12"
        for seed in "01"
    }
    statistics = json.loads((out / "statistics.json").read_text())
    best = [row for row in statistics["gains"]["rows"] if row["comparator"] == "best"]
    assert {row["against"] for row in best} == {"local"}
    told = json.loads((out / "study.json").read_text())["caveats"][0]
    assert told == (
        "federated was chosen on the development folds (0), and as comparators local for"
        " prognosis, local for severity"
    )
    ran = []
    run_study(study, out, workers=0, on_cell=ran.append)
    assert not ran, "the choice and every cell are there"


def test_a_confirmation_uses_the_comparator_that_was_chosen_before(
    protocol, drawn, tmp_path, monkeypatch
):
    """After the choice of local, probe would be better on the other folds: it is not taken."""
    study, out = protocol(), tmp_path / "out"
    run_study(study, out, workers=0, max_minutes=None)
    monkeypatch.setitem(SKILL, "probe", 0.9)
    for folder in (out / "cells" / "probe").glob("*/*/*"):
        (folder / "cell.json").unlink()
        for file in folder.iterdir():
            file.unlink()
        folder.rmdir()
    run_study(study, out, workers=0)
    rows = json.loads((out / "statistics.json").read_text())["gains"]["rows"]
    against = {row["comparator"]: row["gain"] for row in rows if row["task"] == "prognosis"}
    assert against["probe"] < against["local"] == against["best"]


def test_a_study_that_is_stopped_in_its_development_goes_on(protocol, drawn, tmp_path):
    study, out = protocol(), tmp_path / "out"
    assert run_study(study, out, workers=0, max_minutes=0) == []
    assert not (out / "choice.json").exists()
    assert len(run_study(study, out, workers=0)) == 16


def test_no_arm_is_chosen_without_a_gain(protocol, drawn, tmp_path, monkeypatch):
    for arm in ("federated", "other"):
        monkeypatch.setitem(SKILL, arm, np.nan)
    with pytest.raises(RunError, match="no federated arm has a gain for every target"):
        run_study(protocol(), tmp_path / "out", workers=0)


def test_the_grid_is_repeated_with_fewer_patients(load, drawn, tmp_path):
    study = load(
        arms=["local", "federated"], comparators=["local"], train_fraction=[0.5, 1], seeds=[0]
    )
    out = tmp_path / "out"
    run_study(study, out, workers=0)

    def trained(folder):
        data = json.loads((folder / "study.json").read_text())["data"][0]
        splits = data["folds"][0]["sites"]["hospital"]
        return [splits[split]["patients"] for split in ("train", "val", "test")]

    whole, half = trained(out), trained(out / "fraction-0.5")
    assert half[0] == -(-whole[0] // 2)
    assert 2 <= half[1] < whole[1], "both classes validate"
    assert half[2] == whole[2]
    page = write_report(out).read_text()
    assert "gains by fraction of the patients" in page
    assert "50%" in page


def test_models_are_tested_at_every_site_with_their_task(load, tables, tmp_path):
    """Prognosis at two sites: a model of each, tested at both; severity has one site."""
    tables["ward"] = tables["hospital"] | {"cache_dir": str(tmp_path / "other-cache")}
    study = load(
        sites=tables, arms=["local"], federation={"training": {"rounds": 1, "local_steps": 1}}
    )
    out = tmp_path / "out"
    (cell,) = run_study(study, out, workers=0)
    assert {(row["model"], row["site"], row["task"]) for row in cell["elsewhere"]} == {
        ("hospital", "ward", "prognosis"),
        ("ward", "hospital", "prognosis"),
    }
    with (out / "cross_site.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(row["arm"], row["n"], row["metric"]) for row in rows] == [("local", "2", "auroc")] * 2
    page = write_report(out).read_text()
    assert "AUROC of each site&#39;s model at each site" in page


def test_shuffled_labels_reach_every_arm_and_are_a_caveat(load, tables, tmp_path, monkeypatch):
    labels = {}

    def look(bench):
        manifest = bench.cohorts["hospital"].manifest
        labels[bench.config.seed] = manifest.targets["prognosis"][:, 0].tolist()
        raise RunError("seen")

    for kind in ("local", "federated"):
        monkeypatch.setitem(simulation.study.cells.ARMS, kind, look)
    study = load(sites=tables, arms=["local"], shuffle="prognosis", seeds=[0, 1])
    with pytest.raises(RunError, match="seen"):
        run_study(study, tmp_path / "out", workers=0)
    true = [number % 2 for number in range(16)]
    for found in labels.values():
        assert found[14:] == true[14:], "test patients keep their labels"
        assert sorted(found[:12]) == sorted(true[:12])
    assert labels[0] != labels[1]
    monkeypatch.undo()
    run_study(load(sites=tables, arms=["constant"], shuffle="prognosis"), tmp_path / "c", workers=0)
    caveats = json.loads((tmp_path / "c" / "study.json").read_text())["caveats"]
    assert "the labels of prognosis that models learn from were shuffled: a control" in caveats


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"development": [0]}, "development: needs folds of kind k_fold or hash, not own"),
        (
            {"development": [0, 1, 2], "folds": {"kind": "hash", "k": 3}},
            "development: expected some of the folds 0 to 2",
        ),
        (
            {"development": [0], "folds": {"kind": "hash"}},
            "development: needs comparators, and federated arms",
        ),
        ({"train_fraction": [0.5]}, "train_fraction: expected 1 among them"),
        ({"shuffle": "death"}, "shuffle: death is none of prognosis, severity"),
        ({"comparators": ["probe"]}, "comparators: no arm probe; the arms are local"),
        ({"targets": ["severity"]}, "targets: expected prognosis, the target, among them"),
        ({"margins": {"severity": 0.1}}, "margins: severity is no target"),
    ],
)
def test_a_protocol_that_cannot_be_is_one_line(tmp_path, load, changes, message):
    file = tmp_path / "study.yaml"
    load()
    sets = [f"--set={key}={json.dumps(value)}" for key, value in changes.items()]
    result = run_cli("study", file, "--out", tmp_path / "out", *sets)
    assert result.exit_code == 2
    assert message in result.stderr
