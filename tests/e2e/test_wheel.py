"""An installed wheel works outside the checkout."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.e2e


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The wheel, built from this checkout without a network."""
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "-o", str(folder)]
    subprocess.run([*command, str(ROOT)], check=True, capture_output=True)
    (built,) = folder.glob("*.whl")
    return built


def test_the_wheel_holds_the_packages_and_configurations_and_nothing_else(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    tops = {name.split("/")[0] for name in names if ".dist-info" not in name}
    assert tops == {"mdmt", "client", "server", "simulation"}
    assert {f"mdmt/configs/{file.name}" for file in (ROOT / "configs").glob("*.yaml")} <= set(names)
    templates = (ROOT / "server" / "deployment" / "templates").glob("*.j2")
    assert {f"server/deployment/templates/{file.name}" for file in templates} <= set(names)
    assert not [name for name in names if name.endswith((".dcm", ".png", ".csv", ".safetensors"))]


def test_an_installed_demo_runs_in_another_folder(wheel, tmp_path):
    site = tmp_path / "site"
    zipfile.ZipFile(wheel).extractall(site)
    # -P and the first place on the path: the wheel is what is imported, not this checkout.
    environment = os.environ | {"PYTHONPATH": str(site), "HOME": str(tmp_path)}
    changes = (
        "training.rounds=1",
        "references=[]",
        "sites.city-hospital.dataset.patients=12",
        "sites.lung-clinic.dataset.patients=12",
    )
    options = [word for change in changes for word in ("--set", change)]
    where = "import mdmt; print(mdmt.__file__)"
    found = subprocess.run(
        [sys.executable, "-P", "-c", where],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    assert str(site) in found.stdout
    run = subprocess.run(
        [sys.executable, "-P", "-m", "mdmt", "simulate", "demo", "--out", "run", *options],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    assert (tmp_path / "run" / "metrics.json").is_file()
    assert "severity" in run.stdout
    report = subprocess.run(
        [sys.executable, "-P", "-m", "mdmt", "report", "run"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert report.returncode == 0, report.stderr
    assert "</html>" in (tmp_path / "run" / "report.html").read_text()
