"""Simulations as a caller other than the command line starts them."""

from __future__ import annotations

from pathlib import Path
from shutil import rmtree
from typing import Any

import pytest

import simulation.engine
from mdmt.errors import StateError
from mdmt.releases import open_release
from simulation.simulate import simulate


def test_a_relative_run_directory_releases_the_sites_heads(
    make_config: Any, two_sites: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("run").mkdir()
    simulate(make_config(sites=two_sites), Path("run"), "inprocess")
    release = open_release(tmp_path / "run" / "release")
    assert [site for site, _ in release.models("prognosis")] == ["hospital"]
    assert [site for site, _ in release.models("severity")] == ["clinic"]


def test_a_site_that_trained_and_kept_no_head_is_an_error(
    make_config: Any, two_sites: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = simulation.engine.run_inprocess

    def losing(file: Path, out: Path, *arguments: Any, **options: Any) -> None:
        run(file, out, *arguments, **options)
        rmtree(out / "sites" / "hospital")

    monkeypatch.setattr(simulation.engine, "run_inprocess", losing)
    with pytest.raises(StateError, match="hospital kept nothing of round"):
        simulate(make_config(sites=two_sites), tmp_path, "inprocess")


def test_a_site_that_was_never_drawn_has_no_head_in_the_release(
    make_config: Any, two_sites: dict[str, Any], tmp_path: Path
) -> None:
    training = {"rounds": 1, "local_steps": 1, "batch_size": 8}
    aggregation = {"fraction": 0.5, "min_sites": 1}
    config = make_config(sites=two_sites, training=training, aggregation=aggregation)
    simulate(config, tmp_path, "inprocess")
    release = open_release(tmp_path / "release")
    assert len([*release.models("prognosis"), *release.models("severity")]) == 1
