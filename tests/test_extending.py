"""The examples of docs/extending.md: a package that is installed, used from YAML, and refused."""

from __future__ import annotations

import csv
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import numpy as np
import pytest
import yaml
from cli_builders import patients, write_rows
from PIL import Image
from plugin_packages import install_package

from mdmt.files import read_json

PAGE = (Path(__file__).parents[1] / "docs" / "extending.md").read_text()
FILES = dict(re.findall(r"```\w+\n# (\S+)\n(.*?)```", PAGE, flags=re.DOTALL))
MODULES = {name: text for name, text in FILES.items() if name.endswith(".py")}


@pytest.fixture
def package(tmp_path):
    """The folder that the example package is installed in."""
    points = tomllib.loads(FILES["pyproject.toml"])["project"]["entry-points"]
    modules = {"mdmt_example/__init__.py": "", **MODULES}
    return install_package(tmp_path / "site-packages", "mdmt-example", modules, points)


@pytest.fixture
def federation(tmp_path):
    """The example's federation, with a dataset for each of its sites."""
    rows = [row | {"left": str(n % 3), "right": str(n % 2)} for n, row in enumerate(patients(16))]
    write_rows(tmp_path / "ward", rows)
    rng = np.random.default_rng(0)
    for number in range(24):
        folder = tmp_path / "clinic" / ("MILD", "SEVERE")[number % 2]
        folder.mkdir(parents=True, exist_ok=True)
        pixels = rng.integers(0, 255, (40, 40), np.uint8)
        Image.fromarray(pixels).save(folder / f"p{number // 2}_{number % 2}.png")
    content = yaml.safe_load(FILES["federation.yaml"])
    for site in content["sites"].values():
        site |= {"cache_dir": str(tmp_path / "cache"), "workers": 0}
    (tmp_path / "federation.yaml").write_text(yaml.safe_dump(content))
    return tmp_path / "federation.yaml"


def mdmt(*arguments, path):
    """Run a command in a process of its own, where the package is installed."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(path), *sys.path])}
    command = [sys.executable, "-m", "mdmt", *map(str, arguments)]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("name", MODULES)
def test_each_example_is_short(name):
    lines = [line for line in MODULES[name].splitlines() if line.strip()]
    assert len(lines) <= 40


def test_the_package_is_used_from_yaml(package, federation, tmp_path):
    done = mdmt("simulate", federation, "--out", tmp_path / "run", path=package)
    assert done.returncode == 0, done.stderr
    sites = read_json(tmp_path / "run" / "metrics.json")["checkpoints"]["last"]["sites"]
    assert sites["ward"]["test"]["nodules/mae"] > 0
    recipe = yaml.safe_load((tmp_path / "run" / "federation.yaml").read_text())
    assert recipe["algorithm"] == {"name": "geometric_median", "steps": 10}
    assert sites["clinic"]["test"]["outcome/examples"] > 0
    for command in ("show", "report"):
        done = mdmt(command, tmp_path / "run", path=package)
        assert done.returncode == 0, done.stderr
    images = tmp_path / "ward" / "images"
    done = mdmt("predict", tmp_path / "run", images, "--out", tmp_path / "p.csv", path=package)
    assert done.returncode == 0, done.stderr
    with (tmp_path / "p.csv").open(newline="") as file:
        assert "nodules.sum" in next(csv.reader(file))
    without = mdmt("predict", tmp_path / "run", images, "--out", tmp_path / "q.csv", path=tmp_path)
    assert without.returncode == 2
    assert "tasks.nodules.space.kind: unknown task kind count" in without.stderr


def test_a_folder_that_is_no_class_is_a_warning(package, federation, tmp_path):
    (tmp_path / "clinic" / "UNSURE").mkdir()
    site = yaml.safe_load(federation.read_text())["sites"]["clinic"] | {"name": "clinic"}
    site["tasks"] = {"outcome": {"kind": "classification", "classes": ["MILD", "SEVERE"]}}
    (tmp_path / "site.yaml").write_text(yaml.safe_dump(site))
    done = mdmt("validate", tmp_path / "site.yaml", path=package)
    assert done.returncode == 0, done.stderr
    assert "UNSURE: no class" in done.stdout


def test_without_the_package_its_names_are_unknown(federation, tmp_path):
    done = mdmt("simulate", federation, "--out", tmp_path / "run", path=tmp_path)
    assert done.returncode == 2
    assert "unknown task kind count" in done.stderr
