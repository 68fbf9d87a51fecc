"""`mdmt site clean` deletes what is not needed, and nothing else."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import yaml
from builders import PROGNOSIS, federation_dict
from cli_builders import errors, run_cli, write_kit_facts
from click.testing import Result
from typer.testing import CliRunner

from mdmt.cli import app
from mdmt.config import load_federation, load_site
from mdmt.data.cohort import open_cohort
from mdmt.deployment.processes import only_one

OLD, NEW, OTHER = "0" * 12, "1" * 12, "2" * 12


@pytest.fixture
def kit(tmp_path: Path) -> Path:
    """A site with an approved recipe, a cache of it and one of another size, and three runs."""
    kit = tmp_path / "kit"
    write_kit_facts(kit)
    site = {
        "name": "ward",
        "dataset": {"kind": "synthetic", "patients": 12, "images_per_patient": 1, "size": 32},
        "tasks": {"prognosis": PROGNOSIS},
        "cache_dir": "cache",
        "state_dir": "state",
        "workers": 0,
    }
    (kit / "site.yaml").write_text(yaml.safe_dump(site))
    for size in (16, 32):
        model = {"backbone": "test_resnet", "image_size": size}
        federation = federation_dict(tasks={"prognosis": PROGNOSIS}, model=model)
        (kit / "federation.yaml").write_text(yaml.safe_dump(federation))
        config = load_federation(kit / "federation.yaml")
        open_cohort(load_site(kit / "site.yaml"), config)
    assert run_cli("site", "approve", kit, "--yes").exit_code == 0  # of size 32
    state = kit / "state"
    for age, (federation, run) in enumerate([("test", NEW), ("test", OLD), ("other", OTHER)]):
        file = state / federation / run / "federated" / "round-00001.safetensors"
        file.parent.mkdir(parents=True)
        file.write_bytes(bytes(1000))
        for path in (file, *list(file.parents)[:2]):
            os.utime(path, (1e9 - age, 1e9 - age))
    (state / "replies").mkdir()
    (state / "replies" / f"train-{'a' * 64}.reply").write_bytes(b"reply")
    (state / "audit.jsonl").write_text("{}\n")
    (state / "budget.json").write_text("{}")
    return kit


def contents(kit: Path) -> dict[str, bytes]:
    files = [file for file in kit.rglob("*") if file.is_file()]
    return {str(file.relative_to(kit)): file.read_bytes() for file in files}


def clean(kit: Path, answer: str) -> Result:
    return CliRunner().invoke(app, ["site", "clean", str(kit)], input=answer)


def test_only_what_is_not_needed_goes(kit: Path) -> None:
    before = contents(kit)
    (needed,) = [n for n, b in before.items() if n.endswith("pixels") and len(b) > 12 * 32**2]
    result = clean(kit, "y\n")
    assert result.exit_code == 0, result.output
    gone = sorted(set(before) - set(contents(kit)))
    cache, reply, memory = gone
    assert cache.endswith(".pixels")
    assert cache != needed
    assert reply == f"state/replies/train-{'a' * 64}.reply"
    assert memory == f"state/test/{OLD}/federated/round-00001.safetensors"
    for name, data in contents(kit).items():
        if name != "state/site.lock":
            assert data == before[name], name
    assert not (kit / "state" / "test" / OLD).exists()
    assert "memory of the earlier run 000000000000 of test" in result.stdout
    assert "nothing to delete" in clean(kit, "").stdout


@pytest.mark.parametrize("answer", ["n\n", ""])
def test_without_a_yes_everything_stays(kit: Path, answer: str) -> None:
    before = contents(kit)
    assert clean(kit, answer).exit_code == 1
    assert contents(kit) == before | {"state/site.lock": str(os.getpid()).encode()}


def test_a_running_site_is_left_alone(kit: Path) -> None:
    with only_one(kit / "state" / "site.lock", "the site ward"):
        before = contents(kit)
        result = run_cli("site", "clean", kit, "--yes")
        assert contents(kit) == before
    assert result.exit_code == 1
    assert errors(result) == [f"error: the site ward runs already, as process {os.getpid()}"]


def test_caches_stay_if_an_approved_recipe_is_not_stored(kit: Path) -> None:
    (recipe,) = (kit / "state" / "recipes").iterdir()
    recipe.unlink()
    before = {name for name in contents(kit) if name.endswith(".pixels")}
    assert run_cli("site", "clean", kit, "--yes").exit_code == 0
    assert {name for name in contents(kit) if name.endswith(".pixels")} == before


def test_a_table_that_cannot_be_read_deletes_nothing(kit: Path) -> None:
    site = yaml.safe_load((kit / "site.yaml").read_text())
    site["dataset"] = {"kind": "table", "root": "gone", "patient": "p"}
    (kit / "site.yaml").write_text(yaml.safe_dump(site))
    before = contents(kit)
    result = run_cli("site", "clean", kit, "--yes")
    assert result.exit_code == 2
    assert "gone" in errors(result)[0]
    assert contents(kit).keys() - before.keys() <= {"state/site.lock"}
