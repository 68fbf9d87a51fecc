"""A task kind that only this file knows goes everywhere the four built-in ones go."""

from __future__ import annotations

import csv
import math
from typing import Literal

import numpy as np
import pytest
import yaml
from builders import federation_dict, study_dict
from cli_builders import errors, patients, run_cli, table_site, write_rows
from torch.nn.functional import poisson_nll_loss

from mdmt.files import read_json
from mdmt.tasks import Numbers, task_kinds

NODULES = {"kind": "count", "outputs": ["left", "right"], "mirror": {"left": "right"}}


@pytest.fixture(autouse=True, scope="module")
def count():
    """Register the kind `count`: numbers of 0 or more, whose logarithm a head gives."""

    @task_kinds.register("count")
    class Count(Numbers):
        kind: Literal["count"] = "count"

        @property
        def bounds(self):
            return 0.0, math.inf

        def elementwise_loss(self, outputs, targets, class_weights=None):
            return poisson_nll_loss(outputs, targets.to(outputs.dtype), reduction="none")

        def decode(self, outputs):
            return np.exp(np.asarray(outputs, dtype=np.float64))

    yield
    del task_kinds._entries["count"]


@pytest.fixture(scope="module")
def ward(tmp_path_factory):
    """A site of 16 images; the left lung has 0, 1 or 2 nodules, the right has 4 more."""
    root = tmp_path_factory.mktemp("fifth") / "ward"
    rows = [
        row | {"left": str(number % 3), "right": str(number % 3 + 4)}
        for number, row in enumerate(patients(16))
    ]
    rows[0]["left"] = ""  # not counted
    write_rows(root, rows)
    return table_site(root, "nodules") | {"tasks": {"nodules": dict(NODULES)}}


@pytest.fixture(scope="module")
def federation(ward):
    return federation_dict(
        tasks={"nodules": dict(NODULES)},
        training={"rounds": 2, "local_steps": 2, "batch_size": 8, "optimizer": "adam"},
        sites={"ward": ward},
        references=["constant", "local"],
    )


@pytest.fixture(scope="module")
def run(federation, tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    (folder / "federation.yaml").write_text(yaml.safe_dump(federation))
    result = run_cli("simulate", folder / "federation.yaml", "--out", folder / "run")
    assert result.exit_code == 0, result.output
    return folder / "run"


def test_validate_counts_the_labels_and_refuses_what_is_none(ward, tmp_path):
    site = tmp_path / "site.yaml"
    site.write_text(yaml.safe_dump({"name": "ward"} | ward))
    result = run_cli("validate", site)
    assert result.exit_code == 0, result.output
    assert "labelled" in result.output
    root = tmp_path / "bad"
    write_rows(root, [row | {"left": "-1", "right": "0"} for row in patients()])
    site.write_text(yaml.safe_dump({"name": "ward"} | ward | {"dataset": {**table(root)}}))
    result = run_cli("validate", site)
    assert result.exit_code == 2
    assert "'-1' is no label of nodules: expected a number from 0 to inf" in result.output


def table(root):
    return table_site(root)["dataset"]


def test_a_run_has_its_metrics_and_its_constant_is_the_median(run):
    metrics = read_json(run / "metrics.json")
    last = metrics["checkpoints"]["last"]["sites"]["ward"]["test"]
    assert last["nodules/mae"] > 0
    # Training labels: 0 1 2 0 1 2 … on the left, 4 more on the right, of images 0 to 11.
    constant = metrics["references"]["constant"]["sites"]["ward"]["test"]
    assert constant["nodules/mae_left"] == pytest.approx(1.0)  # 2 and 0 against 1
    assert constant["nodules/mae_right"] == pytest.approx(1.0)


def test_its_recipe_and_card_keep_every_key(run):
    assert read_json(run / "sites.json")["sites"]["ward"]["tasks"]["nodules"] == NODULES
    saved = yaml.safe_load((run / "federation.yaml").read_text())
    assert saved["tasks"]["nodules"]["space"] == NODULES


def test_show_and_report_say_how_it_did(run):
    shown = run_cli("show", run)
    assert shown.exit_code == 0, shown.output
    for text in ("MAE", "Pearson r", "nodules at ward"):
        assert text in shown.output
    result = run_cli("report", run)
    assert result.exit_code == 0, result.output
    page = (run / "report.html").read_text()
    assert "MAE of each output" in page
    assert "ROC" not in page.replace("AUROC", "")


def test_predict_gives_numbers_and_their_sum(run, ward, tmp_path):
    images = f"{ward['dataset']['root']}/images"
    result = run_cli("predict", run, images, "--out", tmp_path / "p.csv")
    assert result.exit_code == 0, result.output
    with (tmp_path / "p.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 16
    for row in rows:
        left, right, total = (float(row[f"nodules.{name}"]) for name in ("left", "right", "sum"))
        assert min(left, right) > 0
        assert total == pytest.approx(left + right, rel=1e-4)


def test_a_study_of_it_is_reported(ward, tmp_path):
    study = study_dict(
        {"ward": ward},
        target="nodules",
        arms=["constant", "pooled"],
        folds={"kind": "own"},
        federation={"tasks": {"nodules": dict(NODULES)}},
    )
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(study))
    result = run_cli("study", tmp_path / "study.yaml", "--out", tmp_path / "study", "--workers", 0)
    assert result.exit_code == 0, result.output
    rows = read_json(tmp_path / "study" / "statistics.json")["intervals"]["rows"]
    assert {row["arm"]: row["metric"] for row in rows} == {"constant": "mae", "pooled": "mae"}
    result = run_cli("report", tmp_path / "study")
    assert result.exit_code == 0, result.output
    assert "predicted against true global score" in (tmp_path / "study/report.html").read_text()


def test_class_weights_are_refused_where_there_are_no_classes(federation, tmp_path):
    tasks = {"nodules": NODULES | {"class_weights": "balanced"}}
    (tmp_path / "f.yaml").write_text(yaml.safe_dump(federation | {"tasks": tasks}))
    result = run_cli("simulate", tmp_path / "f.yaml", "--out", tmp_path / "run")
    assert result.exit_code == 2
    assert "class_weights: count has no classes to balance; use none" in errors(result)[0]
