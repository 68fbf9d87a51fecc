"""A simulation stratifies the patients of all sites at once."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import yaml
from builders import federation_dict
from cli_builders import patients, run_cli, table_site, write_rows

from mdmt.data.readers import read_manifest
from mdmt.errors import DataError
from simulation.divide import divide_sites


@pytest.fixture
def sites(tmp_path: Path) -> dict[str, Any]:
    """Two sites with twenty patients each, ten of them at both, and no column of splits."""
    made = {}
    for name, task, first in (("clinic", "severity", 0), ("hospital", "prognosis", 10)):
        rows = [row | {"patient": f"p{n + first}"} for n, row in enumerate(patients(20))]
        write_rows(tmp_path / name, rows)
        made[name] = table_site(tmp_path / name, task)
        del made[name]["dataset"]["split"]
    return made


def test_shared_patients_are_on_one_side_and_fractions_are_exact(
    make_config: Any, sites: dict[str, Any], tmp_path: Path
) -> None:
    config = divide_sites(make_config(sites=sites), tmp_path / "run")
    manifests = {name: read_manifest(site, config.seed) for name, site in config.sites.items()}
    sides = [dict(zip(m.patients, m.splits, strict=True)) for m in manifests.values()]
    shared = sides[0].keys() & sides[1].keys()
    assert len(shared) == 10
    assert all(sides[0][patient] == sides[1][patient] for patient in shared)
    assert Counter(sides[0].values()) == {"train": 12, "val": 4, "test": 4}
    # A resumed run keeps the files, and refuses rows that they do not know.
    files = {file: file.read_text() for file in (tmp_path / "run" / "splits").iterdir()}
    assert len(files) == 2
    table = tmp_path / "clinic" / "labels.csv"
    lines = table.read_text().splitlines()
    table.write_text("\n".join([*lines, lines[-1].replace("19.png", "0.png").replace("p19", "q")]))
    again = divide_sites(make_config(sites=sites), tmp_path / "run")
    assert {file: file.read_text() for file in files} == files
    with pytest.raises(DataError, match="written for other data"):
        read_manifest(again.sites["clinic"], config.seed)


def test_given_and_hashed_splits_and_a_site_alone_need_no_file(
    make_config: Any, sites: dict[str, Any], tmp_path: Path
) -> None:
    alone = make_config(sites={"clinic": sites["clinic"]}, tasks=_only("severity"))
    assert divide_sites(alone, tmp_path / "run") is alone
    sites["clinic"]["dataset"]["split"] = "hash"
    sites["hospital"]["dataset"]["split"] = "split"
    config = make_config(sites=sites)
    assert divide_sites(config, tmp_path / "run") is config
    assert not (tmp_path / "run").exists()


def _only(task: str) -> dict[str, Any]:
    return {task: federation_dict()["tasks"][task]}


def test_simulate_and_validate_use_these_splits(sites: dict[str, Any], tmp_path: Path) -> None:
    training = {"rounds": 1, "local_steps": 1, "batch_size": 8}
    file = tmp_path / "federation.yaml"
    file.write_text(yaml.safe_dump(federation_dict(sites=sites, training=training)))
    told = run_cli("validate", file)
    assert told.exit_code == 0, told.output
    assert "clinic: patients are split 60/20/20 in exact fractions, stratified" in told.stdout
    assert "a patient of several sites is on one side" in told.stdout
    result = run_cli("simulate", file, "--out", tmp_path / "run")
    assert result.exit_code == 0, result.output
    divided = (tmp_path / "run" / "splits" / "clinic.csv").read_text().splitlines()
    assert Counter(line.partition(",")[2] for line in divided[1:])["test"] == 4
    rows = [line.split() for line in told.stdout.splitlines()]
    assert ["patients", "12", "4", "4"] in rows
