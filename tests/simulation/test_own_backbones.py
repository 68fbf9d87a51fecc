"""Algorithms with a backbone per site: what a site tests is what the release and a study use."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from mdmt.data.cohort import open_cohort
from mdmt.evaluation import evaluate_model
from mdmt.releases import open_release
from simulation.simulate import simulate
from simulation.study.arms import _last


def equal(one, other):
    return all(map(torch.equal, one.backbone.state_dict().values(), other.state_dict().values()))


@pytest.mark.parametrize(
    ("algorithm", "training"),
    [
        ({"name": "ditto", "mu": 1.0}, {}),
        ({"name": "ditto", "mu": 1.0}, {"refit_heads": True}),
        ({"name": "task_similarity", "threshold": 0.99}, {}),
    ],
    ids=["ditto", "ditto-refitted", "task_similarity"],
)
def test_a_site_tests_the_backbone_that_is_released_for_it(
    make_config, two_sites, tmp_path, algorithm, training
):
    sites = {
        name: site | {"state_dir": str(tmp_path / "state" / name)}
        for name, site in two_sites.items()
    }
    rounds = {"rounds": 1, "local_steps": 2, "batch_size": 4} | training
    config = make_config(sites=sites, training=rounds, algorithm=algorithm)
    run = tmp_path / "run"
    run.mkdir()
    simulate(config, run, "inprocess")
    release = open_release(run / "release")
    metrics = json.loads((run / "metrics.json").read_text())["checkpoints"]["last"]["sites"]
    common = load_file(run / "release" / "backbone-00001.safetensors")
    card = (run / "release" / "README.md").read_text()
    assert "no site tested it" in card
    backbones = {}
    studied = {(site, task): model for site, task, model in _last(run, config)}
    for site, task, metric in (("clinic", "severity", "mae"), ("hospital", "prognosis", "loss")):
        ((found, model),) = release.models(task)
        assert found == site
        cohort = open_cohort(config.sites[site], config)
        result = evaluate_model(model, cohort, config, [task], torch.device("cpu"))
        for key in (f"{task}/{metric}", f"{task}/examples"):
            assert result.metrics["test"][key] == metrics[site]["test"][key]
        assert equal(model, studied[site, task].backbone)
        weights = model.state_dict()
        name = max(common, key=lambda n: common[n].numel())
        assert not torch.equal(weights[name], common[name])
        backbones[site] = weights[name]
    assert not np.array_equal(backbones["clinic"], backbones["hospital"])
