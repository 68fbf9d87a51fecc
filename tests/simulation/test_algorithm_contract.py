"""What every registered algorithm keeps: P2 where it applies, resume and engines to the bit."""

from __future__ import annotations

import pytest
from builders import synthetic_site
from pydantic import ValidationError
from safetensors.numpy import load_file
from test_pooled_objective import (
    LAMBDA,
    RATE,
    assert_same_update,
    one_site_per_task,
    pooled_step,
    recipe,
    sgd,
)
from test_resume import Killed, comparable, run, stop_in_round
from test_workers import run as run_with_workers

from mdmt.algorithms import algorithms
from mdmt.algorithms.base import require_sum
from mdmt.data.cohort import open_cohort
from mdmt.errors import ConfigError
from mdmt.models import build_model
from server.run import RunDirectory

NAMES = algorithms.names()
TRAINED = [name for name in NAMES if name != "trimmed_mean"]
"""`median` combines with the same code."""
NEEDED = {"fedbabu": {"refit_heads": True}}
"""Keys of `training` that an algorithm needs."""
AVERAGES = ["fedavg", "fedprox", "fedavgm"]
"""Their first round is the weighted mean, for μ > 0 and for a momentum that starts at 0 too."""


@pytest.fixture
def sites(two_sites, tmp_path):
    """Two sites, and a third one for a rule that needs it."""
    more = {"ward": synthetic_site(tmp_path, "prognosis", seed=1)}
    return lambda name: two_sites | (more if algorithms[name]().fewest_updates > 2 else {})


@pytest.mark.parametrize("name", AVERAGES)
def test_one_round_is_one_pooled_step(make_config, tmp_path, name):
    sites = one_site_per_task(tmp_path)
    config = make_config(sites=sites, algorithm=name, **recipe(rounds=1, optimizer=sgd(RATE)))
    out = run(config, tmp_path / "run")
    cohorts = {name: open_cohort(site, config) for name, site in config.sites.items()}
    start = build_model(config, tuple(LAMBDA), weights=False).state_dict()
    start = {key: value.numpy() for key, value in start.items()}
    federated = load_file(out / "checkpoints" / "round-00001.safetensors")
    for part in ("backbone.", "heads.prognosis.", "heads.severity."):
        assert_same_update(start, start | federated, pooled_step(config, cohorts), 1e-4, part)


@pytest.mark.parametrize("name", TRAINED)
def test_a_resumed_run_and_one_of_two_processes_have_the_bits_of_an_undisturbed_one(
    make_config, sites, tmp_path, monkeypatch, name
):
    training = {"rounds": 3, "local_steps": 1, "batch_size": 4} | NEEDED.get(name, {})
    config = make_config(sites=sites(name), training=training, algorithm=name)
    whole = comparable(run(config, tmp_path / "whole"))
    with monkeypatch.context() as patch:
        patch.setattr(RunDirectory, "event", stop_in_round(3))
        with pytest.raises(Killed):
            run(config, tmp_path / "killed")
    assert comparable(run(config, tmp_path / "killed", resume=True)) == whole
    assert comparable(run_with_workers(config, tmp_path / "two", 2)) == whole


@pytest.mark.parametrize("name", NAMES)
def test_an_algorithm_that_needs_single_updates_is_refused_by_name_where_only_sums_are_known(name):
    algorithm = algorithms[name]()
    if algorithm.needs == "sum":
        require_sum(algorithm)
        with pytest.raises(NotImplementedError):
            algorithm.combine_each(None, {}, {})
    else:
        with pytest.raises(ConfigError, match=f"{name} needs the update of every site"):
            require_sum(algorithm)


@pytest.mark.parametrize("name", NAMES)
def test_secure_aggregation_refuses_an_algorithm_by_name_if_it_cannot_work(make_config, name):
    keys = {
        "algorithm": name,
        "privacy": {"secure_aggregation": True},
        "aggregation": {"norm_layers": "local"},
        "training": {"rounds": 1} | NEEDED.get(name, {}),
    }
    if algorithms[name].needs == "sum":
        make_config(**keys)
    else:
        with pytest.raises(ValidationError, match=f"algorithm must not be {name}, which needs"):
            make_config(**keys)
