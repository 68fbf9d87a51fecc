"""The study of the public radiographs, but for its training: folds, shortcut and caveats."""

from __future__ import annotations

import csv
import json
from collections import Counter

import pytest

from mdmt.config import find_config
from simulation.study.config import load_study
from simulation.study.runner import run_study


@pytest.fixture
def finished(covid_cxr, tmp_path, monkeypatch):
    monkeypatch.setenv("MDMT_DATA", str(covid_cxr.parent))
    sites = ("brixia-public", "hannover", "international")
    quick = ["model.image_size=32", "model.backbone=test_resnet", "model.weights=none"]
    quick += [f"sites.{site}.cache_dir={tmp_path / 'cache'}" for site in sites]
    study = load_study(
        find_config("covid_cxr", "study"),
        [
            "arms=[{kind: metadata, columns: [view, age, sex]}]",
            "comparators=[]",
            "seeds=[0]",
            *(f"federation.{q}" for q in quick),
        ],
    )
    run_study(study, tmp_path / "out", workers=0)
    return tmp_path / "out"


def test_every_radiograph_is_tested_once_and_the_view_tells_the_outcome(finished):
    with (finished / "predictions.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    tested = Counter((row["site"], row["image"], row["output"]) for row in rows)
    assert set(tested.values()) == {1}
    images = Counter(site for site, _, output in tested if output in ("A", "SEVERE"))
    assert images == {"brixia-public": 144, "hannover": 75, "international": 146}
    patients = {}
    for row in rows:
        patients.setdefault(row["patient"], set()).add(row["fold"])
    assert all(len(folds) == 1 for folds in patients.values()), "of all sites together"
    intervals = json.loads((finished / "statistics.json").read_text())["intervals"]["rows"]
    (hannover,) = (row for row in intervals if row["site"] == "hannover")
    assert hannover["low"] > 0.6, "PA or AP: a shortcut"
    caveats = " ".join(json.loads((finished / "study.json").read_text())["caveats"])
    assert "patients are both at brixia-public and at international" in caveats
