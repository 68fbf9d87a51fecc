"""The real radiographs, in place: three sites, two of them with the same task."""

from __future__ import annotations

import csv
import json

import numpy as np
import pytest
from published_builders import OUTCOME_TASK, ZONE_TASK, aiforcovid_site, brixia_site

from mdmt.config import find_config, load_federation
from mdmt.data.readers import read_manifest
from mdmt.data.validation import validate_dataset


@pytest.fixture
def config(covid_cxr, monkeypatch, tmp_path):
    monkeypatch.setenv("MDMT_DATA", str(covid_cxr.parent))
    quick = ["training.rounds=2", "training.local_epochs=null", "training.local_steps=2"]
    loaded = load_federation(find_config("covid_cxr_small"), quick)
    sites = {
        name: site.model_copy(update={"cache_dir": tmp_path / "cache"})
        for name, site in loaded.sites.items()
    }
    return loaded.model_copy(update={"sites": sites})


def test_three_real_sites_train_together(config, federate):
    out = federate(config)
    metrics = json.loads((out / "metrics.json").read_text())
    tested = {
        site: max(n for name, n in m["test"].items() if name.endswith("/examples"))
        for site, m in metrics["checkpoints"]["last"]["sites"].items()
    }
    assert tested == {"brixia-public": 35, "hannover": 18, "international": 36}
    constant = metrics["references"]["constant"]["sites"]["brixia-public"]["test"]
    assert 0.7 < constant["severity/mae"] < 1.0


def test_a_patient_on_two_sites_is_on_one_side_on_both(config, covid_cxr):
    manifests = [read_manifest(site, config.seed) for site in config.sites.values()]
    with (covid_cxr / "shared_patients.csv").open() as stream:
        shared = {row["patient_id"] for row in csv.DictReader(stream)}
    found = 0
    for patient in shared:
        sides = [np.unique(m.splits[m.patients == patient]).tolist() for m in manifests]
        sides = [side for side in sides if side]  # some patients are in the held-out part only
        found += len(sides) > 1
        assert all(side == sides[0] and len(side) == 1 for side in sides), patient
    assert found >= 5


def test_every_real_site_is_valid(config):
    for site in config.sites.values():
        assert not validate_dataset(site, config.seed).errors


def test_the_papers_two_layouts_train_together(covid_cxr, tmp_path, make_config, federate):
    layouts = covid_cxr / "original-layouts"
    sites = {
        "afc": aiforcovid_site(layouts / "AIforCOVID", split_files="folds/5/0"),
        "bx": brixia_site(layouts / "BRIXIA", split_files="folds/5/0"),
    }
    tasks = {"prognosis": OUTCOME_TASK, "severity": ZONE_TASK}
    own = {"cache_dir": tmp_path / "cache", "device": "cpu"}
    out = federate(make_config(tasks=tasks, sites={n: s | own for n, s in sites.items()}))
    metrics = json.loads((out / "metrics.json").read_text())["checkpoints"]["last"]["sites"]
    assert metrics["afc"]["test"]["prognosis/examples"] == 12
    assert metrics["bx"]["test"]["severity/examples"] == 9
