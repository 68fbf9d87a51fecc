"""Runs, releases and kits of version 0.1.0: read where that is possible, else refused."""

from __future__ import annotations

import csv
import json
import shutil
import tomllib
from pathlib import Path

import numpy as np
import pytest
import yaml
from cli_builders import errors, run_cli
from PIL import Image

from mdmt import __version__
from mdmt.config import (
    FederationConfig,
    build_config,
    load_saved_federation,
    save_config,
    saved_by,
)
from mdmt.config.renamed import new_name, upgrade
from mdmt.deployment.kits import open_server_kit, open_site_kit
from mdmt.errors import BadInput, ConfigError
from mdmt.releases import open_release
from mdmt.results.runs import read_run
from server.run import find_run

ROOT = Path(__file__).parents[2]
RUN = ROOT / "tests" / "fixtures" / "run-0.1.0"


@pytest.fixture
def old_run(tmp_path: Path) -> Path:
    """A copy of the run of 0.1.0."""
    return Path(shutil.copytree(RUN, tmp_path / "run"))


@pytest.fixture
def image(tmp_path: Path) -> Path:
    """The image whose predictions 0.1.0 wrote down."""
    file = tmp_path / "image.png"
    stripes = np.add.outer(3 * np.arange(48), 2 * np.arange(48)).astype(np.uint8)
    Image.fromarray(stripes).save(file)
    return file


def test_the_package_and_its_metadata_have_one_version() -> None:
    assert tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"] == __version__


def test_a_run_of_0_1_0_is_read_with_its_keys_under_their_new_names() -> None:
    run = read_run(RUN)
    policies = {name: site.policy for name, site in run.config.sites.items()}
    assert not policies["clinic"].report_counts
    assert not policies["clinic"].report_histogram
    assert policies["hospital"].report_counts
    assert run.outcome == "done"
    assert run.sites is not None
    assert run.sites["versions"]["mdmt"] == saved_by(RUN / "federation.yaml") == "0.1.0"


def test_the_algorithm_of_0_1_0_is_read() -> None:
    config = load_saved_federation(RUN / "federation.yaml")
    assert config.algorithm.model_dump()["mu"] == 0.1
    assert open_release(RUN / "release").config.algorithm == config.algorithm


def test_settings_that_only_0_1_0_accepted_do_not_hide_a_run(old_run: Path) -> None:
    file = old_run / "federation.yaml"
    config = yaml.safe_load(file.read_text())
    config["training"]["scheduler"] = {"name": "plateau"}
    config["aggregation"]["fraction"] = 0.5
    config["wire"] = {"up": "int8", "down": "int8"}
    file.write_text(yaml.safe_dump(config))
    assert read_run(old_run).config.aggregation.fraction == 0.5
    with pytest.raises(ConfigError, match=r"needs aggregation\.fraction 1"):
        build_config(FederationConfig, upgrade(config), file)


def test_show_prints_what_0_1_0_measured() -> None:
    shown = run_cli("show", str(RUN))
    assert shown.exit_code == 0
    lines = [" ".join(line.split()) for line in shown.stdout.splitlines()]
    assert "hospital severity 12/5/7 72/30/42 0: 16, 1: 18, 2: 21, 3: 17" in lines
    assert "federated, best (1) 0.835 [0.699, 0.961] −0.207 −0.146 4.129" in lines


def test_report_draws_a_run_of_0_1_0(old_run: Path) -> None:
    assert run_cli("report", str(old_run)).exit_code == 0
    assert "hospital" in (old_run / "report.html").read_text()


@pytest.mark.parametrize("heads", [[], ["--heads", str(RUN / "hospital-state")]])
def test_predict_gives_the_numbers_that_0_1_0_gave(
    tmp_path: Path, image: Path, heads: list[str]
) -> None:
    out = tmp_path / "out.csv"
    heads = [heads[0], f"{heads[1]}/round-00001.safetensors"] if heads else []
    done = run_cli("predict", str(RUN), str(image), "--out", str(out), *heads)
    assert done.exit_code == 0, done.stderr
    (found,), (expected,) = (
        list(csv.DictReader(file.open())) for file in (out, RUN / "predictions.csv")
    )
    added = {"prognosis.label", "prognosis.threshold", "notice"}  # by version 0.3.0
    numbers = found.keys() - added
    assert len(numbers) == (8 if heads else 10)
    for name in numbers - {"image"}:
        assert float(found[name]) == pytest.approx(float(expected[name]), abs=1e-4)


def test_resuming_a_run_of_0_1_0_names_both_versions_and_the_remedy(old_run: Path) -> None:
    (old_run / "metrics.json").unlink()
    config = load_saved_federation(old_run / "federation.yaml")
    with pytest.raises(BadInput) as caught:
        find_run(old_run, config)
    assert str(caught.value) == (
        f"{old_run}: mdmt 0.1.0 wrote this run and mdmt {__version__} cannot resume it: resume it"
        " with mdmt 0.1.0, or start a new run without --resume"
    )


def test_simulate_refuses_to_resume_a_run_of_0_1_0_and_leaves_it_as_it_is(old_run: Path) -> None:
    (old_run / "metrics.json").unlink()
    (old_run / "history.jsonl").unlink()  # it was killed in its first round
    file = old_run.parent / "federation.yaml"
    save_config(load_saved_federation(old_run / "federation.yaml"), file)
    done = run_cli("simulate", str(file), "--resume", "--out", str(old_run))
    assert done.exit_code == 2
    assert "mdmt 0.1.0 wrote this run" in errors(done)[0]
    assert (old_run / "release" / "release.json").exists()


def test_every_run_says_which_version_wrote_it(tmp_path: Path) -> None:
    config = load_saved_federation(RUN / "federation.yaml")
    file = tmp_path / "federation.yaml"
    save_config(config, file)
    assert file.read_text().startswith(f"# Written by mdmt {__version__}\n")
    assert saved_by(file) == __version__
    assert load_saved_federation(file) == config


def test_upgrading_renames_keys_wherever_their_section_stands() -> None:
    old = {
        "sites": {"a": {"policy": {"tell_counts": False, "max_rounds": 3}}},
    }
    new = {
        "sites": {"a": {"policy": {"report_counts": False, "max_rounds": 3}}},
    }
    assert upgrade(old) == new
    assert upgrade(new) == new
    assert old["sites"]["a"]["policy"] == {"tell_counts": False, "max_rounds": 3}


@pytest.mark.parametrize(
    ("key", "now"),
    [
        ("federation.policy.tell_counts", "federation.policy.report_counts"),
        ("policy.tell_histogram", "policy.report_histogram"),
        ("aggregation.weighting", None),
        ("my_policy.tell_counts", None),
    ],
)
def test_a_renamed_key_has_a_new_name(key: str, now: str | None) -> None:
    assert new_name(key) == now


def test_a_users_file_with_a_former_key_is_refused_with_the_new_name(tmp_path: Path) -> None:
    old = yaml.safe_load((RUN / "federation.yaml").read_text())
    file = tmp_path / "federation.yaml"
    file.write_text(yaml.safe_dump(old))
    done = run_cli("validate", str(file))
    assert done.exit_code == 2
    assert errors(done) == [f"error: {file}: aggregation.strategy is now algorithm"]
    del old["aggregation"]["strategy"]
    file.write_text(yaml.safe_dump(old))
    former = "sites.clinic.policy.tell_counts"
    assert errors(run_cli("validate", str(file))) == [
        f"error: {file}: {former} is now sites.clinic.policy.report_counts"
    ]


@pytest.mark.parametrize("role", ["site", "server"])
def test_a_kit_of_0_1_0_is_refused(tmp_path: Path, role: str) -> None:
    open_kit = open_site_kit if role == "site" else open_server_kit
    (tmp_path / "kit.json").write_text(json.dumps({"format": 1, "role": role, "name": "ward"}))
    with pytest.raises(BadInput) as caught:
        open_kit(tmp_path)
    assert str(caught.value) == (
        f"{tmp_path}: mdmt 0.1.0 wrote this kit and mdmt {__version__} cannot use it: make new kits"
        " in another folder with mdmt provision, and give each site its own"
    )
