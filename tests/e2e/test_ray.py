"""The same federation through Flower's simulation engine, in real processes."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from uuid import uuid4

import numpy as np
import pytest
from builders import federation_dict
from safetensors.numpy import load_file

from mdmt.config import FederationConfig
from mdmt.errors import BadInput
from simulation.simulate import prepare, simulate

pytestmark = pytest.mark.e2e


@pytest.fixture
def left_behind(monkeypatch):
    """A function: this machine's processes that descend from this test."""
    mark = f"MDMT_TEST_MARK={uuid4().hex}"
    monkeypatch.setenv(*mark.split("="))

    def find():
        found = []
        for file in Path("/proc").glob("[0-9]*/environ"):
            with suppress(OSError):
                if mark.encode() in file.read_bytes():
                    found.append(file.parent.name)
        return found

    return find


def run(config, out, engine):
    out.mkdir()
    simulate(config, out, engine)
    return load_file(out / "checkpoints" / "round-00003.safetensors")


@pytest.mark.slow
def test_both_engines_give_the_same_bits_and_leave_no_process_behind(
    two_sites, tmp_path, left_behind
):
    config = FederationConfig.model_validate(
        federation_dict(
            sites=two_sites,
            training={"rounds": 3, "local_steps": 2, "batch_size": 8, "optimizer": "adam"},
        )
    )
    prepare(config)
    ours = run(config, tmp_path / "inprocess", "inprocess")
    rays = run(config, tmp_path / "ray", "ray")
    assert ours.keys() == rays.keys()
    assert all(np.array_equal(ours[name], rays[name]) for name in ours)
    metrics = [(tmp_path / e / "metrics.json").read_text() for e in ("inprocess", "ray")]
    assert metrics[0] == metrics[1]
    workers = {
        engine: {
            int(line.rpartition("process ")[2])
            for log in (tmp_path / engine / "sites").glob("*/site.log")
            for line in log.read_text().splitlines()
            if "train answered" in line
        }
        for engine in ("inprocess", "ray")
    }
    assert workers["inprocess"] == {os.getpid()}
    assert workers["ray"]
    assert os.getpid() not in workers["ray"]
    assert left_behind() == []


@pytest.mark.slow
def test_a_federation_that_cannot_start_is_bad_input_in_ray_too(two_sites, tmp_path, left_behind):
    config = FederationConfig.model_validate(federation_dict(sites={"clinic": two_sites["clinic"]}))
    out = tmp_path / "run"
    out.mkdir()
    with pytest.raises(BadInput, match="no site has training labels of the task prognosis"):
        simulate(config, out, "ray")
    assert left_behind() == []
