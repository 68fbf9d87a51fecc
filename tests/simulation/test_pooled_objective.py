"""P2: a federated step is a step on the paper's pooled objective (DESIGN, "The method, exactly").

One full-batch SGD step of rate η at every site, then aggregation, equals one pooled step whose
backbone rate is η/Λ and whose head rates are η/λ_t.
"""

from __future__ import annotations

import csv

import numpy as np
import pytest
import torch
from builders import PROGNOSIS, SEVERITY, synthetic_site
from published_builders import (
    ZONE_TASK,
    aiforcovid_site,
    brixia_site,
    write_aiforcovid,
    write_brixia,
)
from safetensors.numpy import load_file

from mdmt.data.cohort import open_cohort, pool
from mdmt.models import build_model
from mdmt.training import train
from mdmt.weighting import loss_coefficients, site_weights
from server.aggregation import weighted_mean
from simulation.simulate import prepare, simulate
from simulation.study.runner import run_study

LAMBDA = {"prognosis": 1.0, "severity": 3.0}
RATE = 5.0
CPU = torch.device("cpu")


def recipe(severity=SEVERITY, **training):
    """Full-batch steps of plain SGD, and nothing drawn."""
    return {
        "tasks": {
            "prognosis": PROGNOSIS | {"weight": LAMBDA["prognosis"], "head": {"hidden": [8]}},
            "severity": severity | {"weight": LAMBDA["severity"]},
        },
        "training": {"local_steps": 1, "batch_size": 1000} | training,
        "augmentation": {"p": 0},
        "aggregation": {"norm_layers": "frozen", "heads": "shared"},
    }


def sgd(rate):
    return {"name": "sgd", "lr": rate, "momentum": 0}


def one_site_per_task(tmp_path):
    return {
        "clinic": synthetic_site(tmp_path, "severity", patients=12),
        "hospital": synthetic_site(tmp_path, "prognosis", patients=24),
    }


def two_unequal_sites_of_one_task(tmp_path):
    return one_site_per_task(tmp_path) | {
        "ward": synthetic_site(tmp_path, "prognosis", patients=16)
    }


def aiforcovid_and_brixia(tmp_path):
    sites = {
        "afc": aiforcovid_site(write_aiforcovid(tmp_path / "afc")),
        "bx": brixia_site(write_brixia(tmp_path / "bx")),
    }
    machine = {"cache_dir": str(tmp_path / "cache"), "device": "cpu", "workers": 0}
    return {name: site | machine for name, site in sites.items()}


@pytest.fixture(params=[one_site_per_task, two_unequal_sites_of_one_task])
def config(request, make_config, tmp_path):
    return make_config(sites=request.param(tmp_path), **recipe(rounds=1, optimizer=sgd(RATE)))


def one_step(config, cohort, coefficients, rates=None):
    """State after one full-batch step from the federation's initial model."""
    model = build_model(config, tuple(LAMBDA), weights=False)
    train(model, cohort, config, coefficients=coefficients, seed=0, device=CPU, rates=rates)
    return {name: value.numpy() for name, value in model.state_dict().items()}


def pooled_step(config, cohorts):
    whole = sum(LAMBDA.values())
    rates = {"backbone": 1 / whole} | {f"heads.{t}": 1 / weight for t, weight in LAMBDA.items()}
    return one_step(config, pool(list(cohorts.values())), LAMBDA, rates)


def assert_same_update(start, federated, pooled, tolerance, part):
    names = [n for n, v in start.items() if n.startswith(part) and v.dtype.kind == "f"]
    flat = [np.concatenate([s[n].ravel() for n in names]) for s in (start, federated, pooled)]
    theta, moved, reference = flat[0], flat[1] - flat[0], flat[2] - flat[0]
    assert np.linalg.norm(reference) >= 1e-3 * np.linalg.norm(theta), "a no-op proves nothing"
    assert np.linalg.norm(moved - reference) <= tolerance * np.linalg.norm(reference)


def test_one_federated_step_is_one_pooled_step_in_float64(config, make_card):
    torch.set_default_dtype(torch.float64)
    try:
        cohorts = {name: open_cohort(site, config) for name, site in config.sites.items()}
        cards = {
            name: make_card(
                config, name, **{t: cohorts[name].manifest.labelled(t, "train") for t in site.tasks}
            )
            for name, site in config.sites.items()
        }
        start = build_model(config, tuple(LAMBDA), weights=False).state_dict()
        start = {name: value.numpy() for name, value in start.items()}
        coefficients = loss_coefficients(config, cards)
        updates = {n: one_step(config, cohorts[n], coefficients[n]) for n in config.sites}
        backbone = [
            {k: v for k, v in u.items() if k.startswith("backbone") and v.dtype == np.float64}
            for u in updates.values()
        ]
        weights = site_weights(config, cards.values())
        federated = weighted_mean(
            (arrays, dict.fromkeys(arrays, weights[name]))
            for name, arrays in zip(updates, backbone, strict=True)
        )
        pooled = pooled_step(config, cohorts)
    finally:
        torch.set_default_dtype(torch.float32)
    assert_same_update(start, start | federated, pooled, 1e-10, "backbone.")


def test_one_federated_round_is_one_pooled_step_through_the_wire(config, tmp_path):
    prepare(config)
    out = tmp_path / "run"
    out.mkdir()
    simulate(config, out, "inprocess")
    cohorts = {name: open_cohort(site, config) for name, site in config.sites.items()}
    start = build_model(config, tuple(LAMBDA), weights=False).state_dict()
    start = {name: value.numpy() for name, value in start.items()}
    federated = load_file(out / "checkpoints" / "round-00001.safetensors")
    pooled = pooled_step(config, cohorts)
    for part in ("backbone.", "heads.prognosis.", "heads.severity."):
        assert_same_update(start, start | federated, pooled, 1e-4, part)


@pytest.mark.parametrize(
    ("layout", "severity", "folds"),
    [
        (two_unequal_sites_of_one_task, SEVERITY, {"kind": "own"}),
        (aiforcovid_and_brixia, ZONE_TASK, {"kind": "k_fold", "k": 3}),
    ],
)
def test_the_federated_arm_of_a_study_is_the_pooled_one(load, tmp_path, layout, severity, folds):
    """Three rounds through readers, folds and runner: equal predictions for every test image."""
    sites = layout(tmp_path)

    def predictions(rate, *arms):
        federation = recipe(severity, rounds=3, optimizer=sgd(rate))
        study = load(sites=sites, arms=list(arms), folds=folds, federation=federation)
        out = tmp_path / f"rate-{rate}"
        run_study(study, out, workers=0)
        with (out / "predictions.csv").open() as stream:
            rows = list(csv.DictReader(stream))
        return [np.array([float(r["prediction"]) for r in rows if r["arm"] == a]) for a in arms]

    (start,) = predictions(1e-9, "pooled")
    pooled, federated = predictions(0.5, "pooled", "federated")
    moved = np.linalg.norm(pooled - start)
    assert moved >= 0.01 * np.linalg.norm(start), "a no-op proves nothing"
    assert np.linalg.norm(federated - pooled) <= 1e-4 * moved
