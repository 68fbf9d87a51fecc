"""Studies on tiny data: what their arms share, what they compute, what they write."""

from __future__ import annotations

import csv
import json
import shutil
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from builders import PROGNOSIS, SEVERITY

import client.site
import mdmt.central
import simulation.study.arms
import simulation.study.cells
from mdmt.config import find_config
from mdmt.errors import RunError, StateError
from mdmt.tasks.statistics import auroc
from simulation.simulate import simulate
from simulation.study.bench import Outcome
from simulation.study.config import load_study
from simulation.study.runner import run_study

EVERY_ARM = [
    "constant",
    {"kind": "metadata", "columns": ["age", "sex"]},
    "local",
    "finetune",
    "average_init",
    {"kind": "average_init", "name": "mdmt_average", "then": "pooled", "beta": 0.25},
    "pooled",
    "federated",
]
TRAINED = ["local", "finetune", "average_init", "mdmt_average", "pooled", "federated"]


def read(file):
    with file.open() as stream:
        return list(csv.DictReader(stream))


def cell(out, arm, seed=0, fold=0, backbone="test_resnet"):
    return out / "cells" / arm / backbone / f"fold-{fold}" / f"seed-{seed}"


def test_every_arm_runs_and_makes_equally_many_steps_on_the_target(load, tables, tmp_path):
    study = load(sites=tables, arms=EVERY_ARM)
    finished = run_study(study, tmp_path / "out", workers=0)
    assert {one["arm"]: one["steps"] for one in finished} == {
        "constant": {},
        "metadata": {},
        # Two rounds of two steps, whether in one stage or in two.
        **{arm: {"hospital": 4} for arm in TRAINED},
    }
    results = read(tmp_path / "out" / "results.csv")
    target = [row for row in results if row["task"] == "prognosis" and row["metric"] == "auroc"]
    assert [row["arm"] for row in target] == ["constant", "metadata", *TRAINED]
    assert all(row["site"] == "hospital" and row["n"] == "2" for row in target)
    severity = {row["arm"] for row in results if row["task"] == "severity"}
    assert severity == {"constant", "metadata", "local", "mdmt_average", "pooled", "federated"}


def test_metadata_needs_its_columns_where_the_target_is_and_nowhere_else(load, tables, tmp_path):
    del tables["clinic"]["dataset"]["metadata"]
    run_study(load(sites=tables, arms=[EVERY_ARM[1]]), tmp_path / "out", workers=0)
    assert {row["site"] for row in read(tmp_path / "out" / "results.csv")} == {"hospital"}


def test_all_arms_start_from_the_same_weights_with_the_same_recipe(
    load, tables, tmp_path, monkeypatch
):
    """Slip 6: nothing but what is compared may differ between arms."""
    starts = []

    def spy(train):
        def wrapped(model, cohort, config, **options):
            if options["round_number"] == 1 and "prognosis" in model.heads:
                state = {
                    k: v.clone() for k, v in model.state_dict().items() if v.is_floating_point()
                }
                training = config.training.model_dump(exclude={"rounds"})
                starts.append((state, training, config.augmentation, config.tasks, config.model))
            return train(model, cohort, config, **options)

        return wrapped

    monkeypatch.setattr(client.site, "train", spy(client.site.train))
    central = mdmt.central
    monkeypatch.setattr(central, "train", spy(central.train))
    run_study(load(sites=tables), tmp_path / "out", workers=0)
    assert len(starts) == 3  # local at the hospital, pooled, federated at the hospital
    for (first, *recipe), (second, *other) in pairwise(starts):
        shared = first.keys() & second.keys()
        assert any(name.startswith("heads.prognosis") for name in shared)
        assert all(torch.equal(first[name], second[name]) for name in shared)
        assert recipe == other


def test_k_fold_tests_every_image_once_in_every_arm_and_seed(load, tmp_path):
    study = load(folds={"kind": "k_fold", "k": 3}, seeds=[0, 1], arms=["constant", "local"])
    run_study(study, tmp_path / "out", workers=0)
    rows = read(tmp_path / "out" / "predictions.csv")
    for arm in ("constant", "local"):
        for seed in ("0", "1"):
            images = [
                row["image"]
                for row in rows
                if (row["arm"], row["seed"], row["site"]) == (arm, seed, "hospital")
            ]
            assert len(images) == len(set(images)) == 20
    folds = {row["image"]: row["fold"] for row in rows if row["site"] == "hospital"}
    assert set(folds.values()) == {"0", "1", "2"}


def test_auroc_is_that_of_the_probabilities(load, tables, tmp_path):
    """Slip 7: not that of hard labels."""
    study = load(sites=tables, arms=[EVERY_ARM[1]], folds={"kind": "k_fold", "k": 3})
    run_study(study, tmp_path / "out", workers=0)
    predictions = read(tmp_path / "out" / "predictions.csv")
    soft_is_hard = []
    for row in read(tmp_path / "out" / "results.csv"):
        if row["metric"] == "auroc":
            tested = [
                p for p in predictions if p["site"] == "hospital" and p["fold"] == row["fold"]
            ]
            positive = np.array([p["target"] == "1" for p in tested])
            scores = np.array([float(p["prediction"]) for p in tested])
            assert float(row["value"]) == pytest.approx(auroc(positive, scores))
            soft_is_hard.append(auroc(positive, scores) == auroc(positive, scores > 0.5))
    assert len(soft_is_hard) == 3
    assert not all(soft_is_hard)


@pytest.mark.parametrize("arm", ["local", "federated"])
def test_the_best_checkpoint_is_that_of_the_best_round(load, tables, tmp_path, arm):
    def predictions(checkpoint):
        training = {"rounds": 5, "local_steps": 2, "batch_size": 8}
        changes = {"arms": [arm], "checkpoint": checkpoint, "federation": {"training": training}}
        run_study(load(sites=tables, **changes), tmp_path / checkpoint, workers=0)
        rows = read(tmp_path / checkpoint / "predictions.csv")
        return {
            task: [row["prediction"] for row in rows if row["task"] == task]
            for task in ("prognosis", "severity")
        }

    last, best = predictions("last"), predictions("best")
    text = (cell(tmp_path / "best", arm) / "history.jsonl").read_text()
    lines = [json.loads(line) for line in text.splitlines()]
    moved = []
    for task, name, sign in (("prognosis", "auroc", 1), ("severity", "mae", -1)):
        key = f"{task}/{name}"
        curve = {
            n["round"]: sign * n["tasks"][key] for n in lines if n["round"] and key in n["tasks"]
        }
        first_best = max(sorted(curve), key=curve.__getitem__)
        assert (last[task] == best[task]) == (first_best == 5)
        moved.append(first_best != 5)
    assert any(moved), "some best round must not be the last, or this proves nothing"


@pytest.mark.parametrize("checkpoint", ["last", "best"])
def test_a_relative_folder_gives_the_same_predictions(
    load, tables, tmp_path, monkeypatch, checkpoint
):
    """The federated arm finds what its sites kept, whatever the folder is called."""
    monkeypatch.chdir(tmp_path)
    study = load(sites=tables, arms=["federated"], checkpoint=checkpoint)
    for out in (Path("relative"), tmp_path / "absolute"):
        run_study(study, out, workers=0)
    relative, absolute = (
        read(tmp_path / name / "predictions.csv") for name in ("relative", "absolute")
    )
    assert relative == absolute
    assert {row["site"] for row in relative} == {"clinic", "hospital"}


@pytest.mark.parametrize("checkpoint", ["last", "best"])
def test_a_site_without_its_head_fails_the_cell_and_is_not_tested_untrained(
    load, tables, tmp_path, monkeypatch, checkpoint
):
    def losing(config, run, engine):
        simulate(config, run, engine)
        for folder in (run / "sites" / "hospital", run / "release" / "sites"):
            shutil.rmtree(folder)

    monkeypatch.setattr(simulation.study.arms, "simulate", losing)
    study = load(sites=tables, arms=["federated"], checkpoint=checkpoint)
    with pytest.raises(RunError, match=r"federated test_resnet own 0: .*hospital"):
        run_study(study, tmp_path / "out", workers=0)


def test_an_arm_that_leaves_out_a_target_site_has_no_result(load, tables, tmp_path, monkeypatch):
    monkeypatch.setitem(simulation.study.cells.ARMS, "local", lambda bench: Outcome())
    with pytest.raises(RunError, match="predicts no prognosis at hospital"):
        run_study(load(sites=tables, arms=["local"]), tmp_path / "out", workers=0)
    assert not list((tmp_path / "out").rglob("cell.json"))


def test_the_best_round_of_central_training_is_kept(load, tables, tmp_path, monkeypatch):
    """With validation that is best in round 2 of 4, the weights after round 2 are tested."""
    central = mdmt.central
    values = iter([0.1, 0.9, 0.2, 0.3])
    states = []

    def evaluate(model, *_, **__):
        states.append({k: v.clone() for k, v in model.state_dict().items()})
        return {"prognosis/auroc": next(values), "prognosis/examples": 2}

    monkeypatch.setattr(central, "evaluate", evaluate)
    study = load(sites=tables, federation={"training": {"rounds": 4, "local_steps": 1}})
    from mdmt.data.cohort import open_cohort

    cohort = open_cohort(study.federation.sites["hospital"], study.federation)
    trained = central.train_centrally(
        study.federation,
        {"hospital": cohort},
        ["prognosis"],
        who="hospital",
        rounds=4,
        device=torch.device("cpu"),
    )
    best = trained.model_of("prognosis", "best").state_dict()
    assert all(torch.equal(best[name], states[1][name]) for name in best)
    assert not all(torch.equal(states[1][name], states[3][name]) for name in best)


@pytest.mark.parametrize(("checkpoint", "number"), [("last", 2), ("best", 1)])
def test_the_first_stage_hands_on_the_round_that_would_be_tested(
    load, tables, tmp_path, monkeypatch, checkpoint, number
):
    """Severity's validation is best in round 1 of 2: `best` goes on from there."""
    central, arms = mdmt.central, simulation.study.arms
    values, states, starts = iter([0.1, 0.9]), [], []

    def evaluate(model, cohort, split, config, tasks, device):
        if tasks == ["severity"]:
            states.append({k: v.clone() for k, v in model.backbone.state_dict().items()})
            return {"severity/mae": next(values), "severity/examples": 2}
        return {}

    def train_centrally(*arguments, start=None, **options):
        starts.append(start)
        return central.train_centrally(*arguments, start=start, **options)

    monkeypatch.setattr(central, "evaluate", evaluate)
    monkeypatch.setattr(arms, "train_centrally", train_centrally)
    run_study(
        load(sites=tables, arms=["finetune"], checkpoint=checkpoint), tmp_path / "out", workers=0
    )
    none, start = starts
    assert none is None
    assert all(torch.equal(start[name], states[number - 1][name]) for name in start)
    assert not all(torch.equal(states[0][name], states[1][name]) for name in start)


def test_local_is_the_federation_of_one_site(load, tables, tmp_path):
    """Same start, order of images and steps; plain SGD has no moments that rounds would reset."""
    recipe = {"training": {"rounds": 2, "local_steps": 2, "batch_size": 4}}
    recipe["training"]["optimizer"] = {"name": "sgd", "momentum": 0}
    recipe["tasks"] = {"prognosis": dict(PROGNOSIS)}
    hospital = {"hospital": tables["hospital"]}
    study = load(sites=hospital, arms=["local", "federated"], federation=recipe)
    run_study(study, tmp_path / "out", workers=0)
    rows = read(tmp_path / "out" / "predictions.csv")
    local, federated = (
        [float(row["prediction"]) for row in rows if row["arm"] == arm]
        for arm in ("local", "federated")
    )
    assert local == pytest.approx(federated, rel=1e-6)


def test_redrawn_data_differ_by_seed_and_others_do_not(load, tmp_path):
    def fingerprints(out):
        data = json.loads((out / "study.json").read_text())["data"]
        return [(one["seeds"], one["sites"]["hospital"]["data"]) for one in data]

    run_study(load(seeds=[0, 1], arms=["constant"]), tmp_path / "same", workers=0)
    ((seeds, _),) = fingerprints(tmp_path / "same")
    assert seeds == [0, 1]
    study = load(seeds=[0, 1], arms=["constant"], redraw=True)
    run_study(study, tmp_path / "redrawn", workers=0)
    (first, a), (second, b) = fingerprints(tmp_path / "redrawn")
    assert (first, second) == ([0], [1])
    assert a != b


def test_the_negative_control_is_the_study_without_coupling():
    study, control = (
        load_study(find_config(name, "study")) for name in ("synthetic", "synthetic_control")
    )
    sites = study.federation.sites
    assert sites["city-hospital"].dataset.coupling > 0
    dataset = sites["city-hospital"].dataset.model_copy(update={"coupling": 0})
    uncoupled = dict(sites)
    uncoupled["city-hospital"] = sites["city-hospital"].model_copy(update={"dataset": dataset})
    assert control.federation.sites == uncoupled
    same = {"name": "synthetic", "sites": sites}
    assert control.federation.model_copy(update=same) == study.federation
    federation = {"name": "synthetic", "federation": study.federation}
    assert control.model_copy(update=federation) == study


def test_study_json_says_what_was_run_and_what_to_beware_of(load, tables, tmp_path):
    study = load(sites=tables, seeds=[0, 1], arms=["constant", EVERY_ARM[1], "local"])
    run_study(study, tmp_path / "out", workers=0)
    told = json.loads((tmp_path / "out" / "study.json").read_text())
    assert (told["format"], told["name"]) == (1, "small")
    assert told["cells"]["done"] == told["cells"]["of"] == 6
    assert {"torch", "timm", "mdmt"} <= told["versions"].keys()
    hospital = told["data"][0]["folds"][0]["sites"]["hospital"]
    assert (hospital["train"]["images"], hospital["test"]["patients"]) == (12, 2)
    assert hospital["train"]["labels"]["prognosis"] == {"": {"MILD": 6, "SEVERE": 6}}
    caveats = " ".join(told["caveats"])
    assert "16 patients are both at clinic and at hospital" in caveats
    assert "prognosis is tested on 2 patients at hospital" in caveats
    assert "the 2 seeds share their images" in caveats


def test_the_federated_arm_may_aggregate_in_its_own_way(load, tables, tmp_path):
    own = {"kind": "federated", "name": "uniform", "set": ["aggregation.weighting=uniform"]}
    weight = {"prognosis": PROGNOSIS, "severity": SEVERITY | {"weight": 3}}
    study = load(sites=tables, arms=["federated", own], federation={"tasks": weight})
    run_study(study, tmp_path / "out", workers=0)

    def weights(arm):
        """Of round 1; by task, λ of severity counts three times."""
        line = (cell(tmp_path / "out", arm) / "history.jsonl").read_text().splitlines()[1]
        return {name: site["weight"] for name, site in json.loads(line)["sites"].items()}

    assert weights("uniform") == {"clinic": 0.5, "hospital": 0.5}
    assert weights("federated") == {"clinic": 0.75, "hospital": 0.25}


def test_two_federated_arms_may_have_different_algorithms(load, tables, tmp_path):
    algorithm = "algorithm={name: fedprox, mu: 100}"
    own = {"kind": "federated", "name": "proximal", "set": [algorithm]}
    run_study(load(sites=tables, arms=["federated", own]), tmp_path / "out", workers=0)
    predictions = read(tmp_path / "out" / "predictions.csv")
    average, proximal = (
        [float(row["prediction"]) for row in predictions if row["arm"] == arm]
        for arm in ("federated", "proximal")
    )
    assert average != proximal
    study = yaml.safe_load((tmp_path / "out" / "study.yaml").read_text())
    assert study["arms"][1]["set"] == [algorithm]


def test_an_arm_may_change_the_recipe_and_its_cells_know_it(load, tables, tmp_path):
    """Three rounds instead of two, images of 24 pixels instead of 32; other arms keep theirs."""
    own = {"kind": "local", "name": "longer", "set": ["training.rounds=3", "model.image_size=24"]}
    study = load(sites=tables, arms=["local", own, "pooled"])
    local, longer, pooled = run_study(study, tmp_path / "out", workers=0)
    assert [one["steps"]["hospital"] for one in (local, longer, pooled)] == [4, 6, 4]
    assert longer["identity"]["arm"]["set"] == list(own["set"])
    assert local["identity"]["recipe"] == pooled["identity"]["recipe"]
    assert longer["identity"]["recipe"] == study.recipe(study.arms[1]).hash
    assert study.recipe(study.arms[1]).model.image_size == 24
    caveats = json.loads((tmp_path / "out" / "study.json").read_text())["caveats"]
    differ = "hospital: arms differ in steps with images of prognosis: local 4, longer 6, pooled 4"
    assert differ in caveats
    other = load(sites=tables, arms=["local", own | {"set": ["training.rounds=4"]}])
    with pytest.raises(StateError, match="was made with other arm, recipe"):
        run_study(other, tmp_path / "out", workers=0)


def test_a_site_that_withholds_its_counts_made_the_steps_of_every_arm(load, tables, tmp_path):
    for site in tables.values():
        site["policy"] = {"report_counts": False}
    own = {"kind": "federated", "set": ["aggregation.weighting=uniform"]}
    (finished,) = run_study(load(sites=tables, arms=[own]), tmp_path / "out", workers=0)
    assert finished["steps"] == {"hospital": 4}
