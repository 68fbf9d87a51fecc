"""A run with refitted heads and the probe: what it tests is what it releases."""

from __future__ import annotations

import json

import pytest
import torch
import yaml
from builders import federation_dict
from cli_builders import run_cli

from mdmt.errors import BadInput
from mdmt.releases import open_release


def test_a_run_tests_and_releases_refitted_heads(two_sites, tmp_path):
    training = {"rounds": 1, "local_steps": 1, "batch_size": 4, "refit_heads": True}
    references = ["constant", "probe", "local"]
    federation = federation_dict(sites=two_sites, training=training, references=references)
    file, run = tmp_path / "federation.yaml", tmp_path / "run"
    file.write_text(yaml.safe_dump(federation))
    result = run_cli("simulate", file, "--out", run)
    assert result.exit_code == 0, result.output
    assert "probe" in result.output

    metrics = json.loads((run / "metrics.json").read_text())
    assert set(metrics["references"]) == {"constant", "probe", "local"}
    tested = metrics["checkpoints"]["last"]["sites"]["hospital"]["test"]
    assert tested["prognosis/refitted"] == 1
    release = open_release(run / "release")
    ((site, model),) = release.models("prognosis")
    name = f"round-{release.rounds['prognosis']:05d}.safetensors"
    folder = run / "sites" / site / "test" / release.run
    ((_, _, own),) = release.site_models(folder / "refitted" / name)
    assert all(map(torch.equal, own.parameters(), model.parameters()))
    with pytest.raises(BadInput, match="heads that were not released; give the file of this name"):
        list(release.site_models(folder / "federated" / name))
