"""Studies that cannot be: one line, exit code 2, nothing run and nothing written."""

from __future__ import annotations

import pytest
import yaml
from builders import study_dict, synthetic_site
from cli_builders import errors, patients, run_cli, table_site, write_rows

METADATA = {"kind": "metadata", "columns": ["view"]}

CASES = {
    "unknown arm": ({"arms": ["magic"]}, "arms.0.kind: expected one of 'constant'"),
    "unknown key of an arm": ({"arms": [{"kind": "local", "beta": 1}]}, "arms.0.beta: no such key"),
    "no arm": ({"arms": []}, "arms: "),
    "an arm twice": ({"arms": ["local", "local"]}, "arms: local is given twice"),
    "a seed twice": ({"seeds": [1, 1]}, "seeds: 1 is given twice"),
    "no such target": ({"target": "death"}, "target: death is none of prognosis, severity"),
    "a target that no site has": (
        {
            "target": "view",
            "federation": {"tasks": {"view": {"kind": "multilabel", "labels": ["PA"]}}},
        },
        "target: no site of the federation has the task view",
    ),
    "steps that would differ by arm": (
        {"federation": {"training": {"rounds": 2, "local_epochs": 1}}},
        "federation.training.local_steps: a study needs it",
    ),
    "sites drawn per round": (
        {"federation": {"aggregation": {"fraction": 0.5}}},
        "federation.aggregation.fraction: must be 1",
    ),
    "two stages in one round": (
        {"arms": ["average_init"], "federation": {"training": {"rounds": 1, "local_steps": 1}}},
        "arms.average_init: its two stages need training.rounds of 2",
    ),
    "no such source": (
        {"arms": [{"kind": "finetune", "source": "view"}]},
        "arms.finetune.source: no other task view at a site",
    ),
    "an arm with an unknown key of the recipe": (
        {"arms": [{"kind": "federated", "name": "ca", "set": ["training.round=3"]}]},
        "arms.ca.set: training.round: no such key; did you mean rounds?",
    ),
    "an arm with an impossible value": (
        {"arms": [{"kind": "local", "set": ["training.rounds=many"]}]},
        "arms.local.set: training.rounds: ",
    ),
    "an arm without a value": (
        {"arms": [{"kind": "local", "set": ["training.rounds"]}]},
        "arms.local.set: --set training.rounds: expected KEY.KEY=VALUE",
    ),
    "an arm with epochs": (
        {"arms": [{"kind": "pooled", "set": ["training={rounds: 2, local_epochs: 1}"]}]},
        "arms.pooled.set: training.local_steps: a study needs it",
    ),
    "an arm with other data": (
        {"arms": [{"kind": "local", "set": ["sites={}"]}]},
        "arms.local.set: sites: all arms of a study share it",
    ),
    "an arm with another backbone": (
        {"arms": [{"kind": "local", "set": ["model.backbone=resnet18"]}]},
        "arms.local.set: model.backbone: all arms of a study share it",
    ),
    "changes of an arm that does not train": (
        {"arms": [{"kind": "constant", "set": ["training.rounds=3"]}]},
        "arms.0.set: no such key",
    ),
    "redrawn tables": ({"redraw": True}, "redraw: only sites with dataset.kind synthetic"),
    "unknown folds": ({"folds": {"kind": "random"}}, "folds.kind: expected one of"),
    "more folds than patients": (
        {"folds": {"kind": "k_fold", "k": 11}},
        "folds: too few patients for 11 parts",
    ),
    "unknown backbone": (
        {"backbones": ["resnet_18"]},
        "model.backbone: unknown backbone resnet_18",
    ),
    "weights of another kind": (
        {"backbones": [{"backbone": "resnet18", "weights": "ImageNet"}]},
        "backbones: resnet18: expected none, timm, offline",
    ),
    "a column that is not told": (
        {"arms": [METADATA]},
        "site hospital: no column view for the metadata",
    ),
    "the label as a column": (
        {"arms": [METADATA | {"columns": ["prognosis"]}]},
        "site hospital: the column prognosis is the label of prognosis",
    ),
}


@pytest.fixture
def sites(tmp_path):
    made = {}
    for name, task in (("clinic", "severity"), ("hospital", "prognosis")):
        write_rows(tmp_path / name, patients(16))
        made[name] = table_site(tmp_path / name, task)
    made["hospital"]["dataset"]["metadata"] = ["prognosis"]
    return made


def run(tmp_path, study, *arguments):
    file = tmp_path / "study.yaml"
    file.write_text(yaml.safe_dump(study))
    return run_cli("study", file, "--out", tmp_path / "out", "--workers", 0, *arguments)


@pytest.mark.parametrize("case", CASES)
def test_one_line_says_what_is_wrong_and_nothing_is_written(tmp_path, sites, case):
    changes, message = CASES[case]
    if case == "a target that no site has":
        tasks = study_dict({})["federation"]["tasks"] | changes["federation"]["tasks"]
        changes = changes | {"federation": {"tasks": tasks}}
    result = run(tmp_path, study_dict(sites, **changes))
    assert result.exit_code == 2, result.output
    (line,) = errors(result)
    assert message in line
    assert not (tmp_path / "out").exists()


def test_a_fold_without_one_class_is_refused(tmp_path, sites):
    rows = [row | {"prognosis": "MILD"} if row["split"] == "test" else row for row in patients(16)]
    write_rows(tmp_path / "ward", rows)
    sites["ward"] = table_site(tmp_path / "ward", "prognosis")
    result = run(tmp_path, study_dict(sites))
    assert result.exit_code == 2
    (line,) = errors(result)
    assert "fold own: site ward: task prognosis: no SEVERE in the test split" in line


def test_a_patient_on_two_sides_is_refused(tmp_path, sites):
    rows = [row | {"patient": f"p{15 - number}"} for number, row in enumerate(patients(16))]
    write_rows(tmp_path / "ward", rows)
    sites["ward"] = table_site(tmp_path / "ward", "prognosis")
    result = run(tmp_path, study_dict(sites))
    assert result.exit_code == 2
    (line,) = errors(result)
    assert "keep a patient on one side" in line


def test_a_study_that_is_not_there(tmp_path):
    result = run_cli("study", "nothing")
    assert result.exit_code == 2
    (line,) = errors(result)
    assert "configurations of the package: " in line
    assert "synthetic_control" in line


def test_overrides_reach_the_study_and_its_federation(tmp_path):
    site = synthetic_site(tmp_path, "prognosis", patients=20)
    study = study_dict({"hospital": site}, arms=["constant", "local"])
    study["federation"]["tasks"].pop("severity")
    result = run(tmp_path, study, "--set", "arms=[local]", "--set", "federation.training.rounds=1")
    assert result.exit_code == 0, result.output
    assert "cell 1 of 1: local test_resnet fold own seed 0" in result.stderr
    assert "prognosis at hospital, test_resnet" in result.stdout
    (history,) = (tmp_path / "out").rglob("history.jsonl")
    assert len(history.read_text().splitlines()) == 1


def test_a_federation_may_be_named_instead_of_written_out(tmp_path):
    from simulation.study.config import load_study

    file = tmp_path / "study.yaml"
    study = {"name": "s", "federation": "demo", "target": "prognosis", "arms": ["local"]}
    study["set"] = ["training.local_epochs=null", "training.local_steps=3"]
    file.write_text(yaml.safe_dump(study))
    loaded = load_study(file, ["federation.training.rounds=1", "seeds=[7]"])
    assert loaded.federation.name == "demo"
    assert (loaded.federation.training.rounds, loaded.federation.training.local_steps) == (1, 3)
    assert loaded.seeds == (7,)
