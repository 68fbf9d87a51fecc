"""`mdmt site approve`: what an engineer reads, and what a yes writes."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from builders import PROGNOSIS, federation_dict
from cli_builders import errors, run_cli, write_kit_facts
from click.testing import Result
from typer.testing import CliRunner

from mdmt.cli import app
from mdmt.config import load_federation

SITE = """\
# Our own file.
name: ward
dataset: {kind: synthetic, patients: 30, images_per_patient: 2, size: 32}
tasks: {prognosis: {kind: classification, classes: [MILD, SEVERE]}}
cache_dir: CACHE
state_dir: state
policy:            # agreed on 2 May
  max_rounds: 10   # a run
"""


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Drawn once for all tests."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def kit(tmp_path: Path, cache: Path) -> Path:
    folder = tmp_path / "kit"
    write_kit_facts(folder)
    (folder / "site.yaml").write_text(SITE.replace("CACHE", str(cache)))
    write_recipe(folder)
    return folder


def write_recipe(kit: Path, **changes: Any) -> str:
    """Write the kit's federation; return the hash of its recipe."""
    file = kit / "federation.yaml"
    file.write_text(yaml.safe_dump(federation_dict(tasks={"prognosis": PROGNOSIS}, **changes)))
    return load_federation(file).hash


def policy(kit: Path) -> dict[str, Any]:
    found = yaml.safe_load((kit / "site.yaml").read_text())["policy"]
    assert isinstance(found, dict)
    return found


def contents(kit: Path) -> dict[Path, bytes]:
    return {file: file.read_bytes() for file in kit.rglob("*") if file.is_file()}


def words(result: Result) -> str:
    """Standard output without its line breaks."""
    return " ".join(result.stdout.split())


def test_a_yes_writes_the_hash_and_the_text(kit: Path) -> None:
    sha256 = load_federation(kit / "federation.yaml").hash
    result = run_cli("site", "approve", kit, "--yes")
    assert result.exit_code == 0, result.output
    assert policy(kit) == {"recipes": [sha256], "max_rounds": 10}
    assert "# agreed on 2 May" in (kit / "site.yaml").read_text()
    stored = kit / "state" / "recipes" / f"{sha256}.json"
    assert stored.read_text() == load_federation(kit / "federation.yaml").recipe
    before = (kit / "site.yaml").read_bytes()
    again = run_cli("site", "approve", kit, "--yes")
    assert again.exit_code == 0
    assert "nothing was changed" in again.stdout
    assert (kit / "site.yaml").read_bytes() == before


@pytest.mark.parametrize("answer", ["n\n", "\n", ""])
def test_without_a_yes_nothing_is_written(kit: Path, answer: str) -> None:
    before = contents(kit)
    result = CliRunner().invoke(app, ["site", "approve", str(kit)], input=answer)
    assert result.exit_code == 1
    assert contents(kit) == before


def test_the_explanation_fits_80_columns_and_names_what_matters(kit: Path) -> None:
    write_recipe(kit, training={"rounds": 4, "local_steps": 1, "batch_size": 3})
    result = CliRunner().invoke(app, ["site", "approve", str(kit)], input="n\n")
    table = [line for line in result.stdout.splitlines() if str(kit) not in line]
    assert max(map(len, table)) <= 80
    text = words(result)
    assert "4 rounds of 1 steps" in text
    assert "batches of 3 images" in text
    assert "secure aggregation OFF The coordinator reads your update by itself" in text
    assert "differential privacy OFF No bound exists" in text
    # A batch has three images of two or three patients; one task is tested after two rounds.
    fewest = int(text.partition("trained backbone,")[2].partition("(batches)")[0].split()[-1])
    assert fewest in {2, 3}
    assert "all of a run" in text
    assert text.partition("all of a run")[2].split()[1] == str(1 + 4 + 2)


def test_the_patients_of_a_round_are_those_of_the_training(kit: Path) -> None:
    """The fewest patients over all rounds, counted by hand from the batches of each round."""
    import numpy as np

    from client.deployment.plan import open_plan
    from client.deployment.plan_facts import Facts
    from mdmt.data.batches import joint_batches
    from mdmt.deployment.kits import open_site_kit
    from mdmt.seeds import derive_seed

    write_recipe(kit, training={"rounds": 6, "local_steps": 2, "batch_size": 4})
    plan = open_plan(open_site_kit(kit), kit / "federation.yaml")
    manifest = plan.manifest
    train = manifest.indices("train")
    behind = []
    for number in range(1, 7):
        rng = np.random.default_rng(derive_seed(0, "train", "ward", number))
        rows = np.concatenate([*joint_batches([(train, 1)], 4, 2, rng)])
        assert len(rows) == 8
        behind.append(len(set(manifest.patients[rows])))
    everybody = len(set(manifest.patients[train]))
    assert Facts(plan).training_patients == (min(behind), everybody)
    assert min(behind) < 8 < everybody, "some patient has two images in a round"


def test_every_limit_that_refuses_is_named(kit: Path) -> None:
    limits = {
        "max_rounds": 1,
        "max_upload": 0.01,
        "max_messages": 3,
        "min_patients_per_update": 1000,
        "max_threads": 1,
        "max_cache": 1e-6,
        "min_examples": 1000,
        "secure_aggregation": True,
        "max_epsilon": 1.0,
        "backbones": ["resnet18"],
        "federations": ["other"],
    }
    site = yaml.safe_load((kit / "site.yaml").read_text()) | {"policy": limits}
    (kit / "site.yaml").write_text(yaml.safe_dump(site))
    training = {"rounds": 2, "local_steps": 2, "batch_size": 8, "threads": 2}
    write_recipe(kit, training=training)
    result = run_cli("site", "approve", kit, "--yes")
    assert result.exit_code == 0
    for key in limits:
        assert f"refused: policy: {key} " in result.stderr, key
    assert len(policy(kit)["recipes"]) == 1, "the engineer may raise the limit afterwards"


def test_differential_privacy_is_told_with_its_epsilon(kit: Path) -> None:
    pytest.importorskip("opacus")
    dp = {"noise_multiplier": 1.0, "sample_rate": 0.25}
    changes = {"privacy": {"dp": dp}, "aggregation": {"weighting": "uniform"}}
    write_recipe(kit, **changes)
    text = words(run_cli("site", "approve", kit, "--yes"))
    assert "differential privacy on What one training patient can change" in text
    told = float(text.partition("ε = ")[2].split()[0])
    assert 1 < told < 20
    assert "drawn from" in text
    assert "numbers of" not in text, "the card has no counts"
    limited = (kit / "site.yaml").read_text().replace("max_rounds: 10", f"max_epsilon: {told / 2}")
    (kit / "site.yaml").write_text(limited)
    result = run_cli("site", "approve", kit, "--yes")
    assert f"this recipe needs {told:.2f}" in result.stderr


def test_secure_aggregation_needs_the_keys_of_two_other_sites(kit: Path) -> None:
    secure = {"privacy": {"secure_aggregation": True}, "aggregation": {"norm_layers": "frozen"}}
    write_recipe(kit, **secure)
    result = run_cli("site", "approve", kit, "--yes")
    assert "secure aggregation on The coordinator reads only the sum" in words(result)
    assert "policy: peers lists 0 other sites" in result.stderr
    fingerprints = [f"SHA256:{letter * 43}" for letter in "ab"]
    peers = yaml.safe_dump(dict(zip(("north", "south"), fingerprints, strict=True)))
    site = (kit / "site.yaml").read_text()
    lines = "".join(f"    {line}\n" for line in peers.splitlines())
    (kit / "site.yaml").write_text(site.replace("  max_rounds", f"  peers:\n{lines}  max_rounds"))
    again = run_cli("site", "approve", kit, "--yes")
    assert again.exit_code == 0
    assert "warning" not in again.stderr


def test_a_changed_recipe_shows_old_and_new(kit: Path) -> None:
    assert "No earlier recipe" in run_cli("site", "approve", kit, "--yes").stdout
    sha256 = write_recipe(kit, training={"rounds": 3, "local_steps": 2, "batch_size": 1})
    result = run_cli("site", "approve", kit, "--yes")
    rows = [line.split() for line in result.stdout.splitlines()]
    assert ["training.batch_size", "8", "1"] in rows
    assert ["training.rounds", "2", "3"] in rows
    assert sum(bool(row) and row[0].startswith("training.") for row in rows) == 2
    assert policy(kit)["recipes"][1:] == [sha256]


def test_weights_in_a_file_move_into_the_kit(kit: Path, tmp_path: Path) -> None:
    weights = tmp_path / "start.safetensors"
    weights.write_bytes(b"tensors")
    model = {"backbone": "test_resnet", "image_size": 32, "weights": str(weights)}
    sha256 = write_recipe(kit, model=model)
    assert run_cli("site", "approve", kit, "--yes").exit_code == 0
    assert policy(kit)["recipes"] == [sha256]
    (copy,) = (kit / "weights").iterdir()
    assert copy.read_bytes() == b"tensors"
    assert copy.stem in (kit / "state" / "recipes" / f"{sha256}.json").read_text()


def test_a_file_of_the_coordinator_by_its_own_path(kit: Path, tmp_path: Path) -> None:
    sha256 = write_recipe(kit)
    other = (kit / "federation.yaml").rename(tmp_path / "sent by mail.yaml")
    assert run_cli("site", "approve", other, kit, "--yes").exit_code == 0
    assert policy(kit)["recipes"] == [sha256]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"tasks": {"other": PROGNOSIS}}, "tasks.prognosis: .*federation.yaml has no such task"),
        ({"tasks": {"prognosis": PROGNOSIS | {"classes": ["A", "B"]}}}, "tasks.prognosis: classes"),
        ({"training": {"rounds": 0}}, "training.rounds"),
        ({"model": {"backbone": "test_resnet", "weights": "gone.pth"}}, "gone.pth: No such file"),
    ],
)
def test_bad_input_is_one_line_and_writes_nothing(
    kit: Path, change: dict[str, Any], says: str
) -> None:
    whole = federation_dict(tasks={"prognosis": PROGNOSIS}) | change
    (kit / "federation.yaml").write_text(yaml.safe_dump(whole))
    before = contents(kit)
    result = run_cli("site", "approve", kit, "--yes")
    assert result.exit_code == 2, result.output
    (line,) = errors(result)
    assert re.search(says, line), line
    assert contents(kit) == before


def test_a_missing_file_is_named(kit: Path) -> None:
    (kit / "federation.yaml").unlink()
    result = run_cli("site", "approve", kit)
    assert result.exit_code == 2
    assert "federation.yaml: cannot be read" in errors(result)[0]
