"""The federation's file and the site's file in a kit say what the coordinator wrote."""

from __future__ import annotations

import hashlib
import shutil

import pytest
import yaml
from builders import PROGNOSIS, SEVERITY, federation_dict
from kit_builders import FEDERATION, run

from mdmt.config import SiteConfig, find_config, load_federation, load_site
from mdmt.deployment.kits import open_site_kit
from server.deployment.bundle import app_hash


def load_filled(kit):
    """Load a site's file; `policy` belongs to a model that this branch may not have."""
    text = kit.site_file.read_text()
    if "policy" not in SiteConfig.model_fields:
        kit.site_file.write_text(text.partition("\npolicy:")[0] + "\n")
    site = load_site(kit.site_file)
    kit.site_file.write_text(text)
    return site


def test_the_servers_federation_is_the_same_without_its_sites(source, kits):
    run(source, kits)
    text = (kits / "server" / "federation.yaml").read_text()
    found, given = load_federation(kits / "server" / "federation.yaml"), load_federation(source)
    assert (found.recipe, found.sites) == (given.recipe, {})
    keys = list(yaml.safe_load(FEDERATION))
    assert list(yaml.safe_load(text)) == [key for key in keys if key != "sites"]
    assert "north" not in text


@pytest.mark.parametrize("name", ["demo", "covid_cxr", "covid_cxr_small"])
def test_shipped_federations_lose_only_their_sites(name, kits, monkeypatch):
    monkeypatch.setenv("MDMT_DATA", "/data")
    source = find_config(name)
    given = load_federation(source).recipe
    run(source, kits)
    monkeypatch.delenv("MDMT_DATA")
    assert load_federation(kits / "server" / "federation.yaml").recipe == given


def test_weights_are_found_from_the_kit(source, kits, tmp_path):
    (tmp_path / "my.safetensors").write_bytes(b"weights")
    source.write_text(FEDERATION.replace("weights: none", "weights: my.safetensors  # mine"))
    run(source, kits)
    found = load_federation(kits / "server" / "federation.yaml")
    assert found.model.weights == str(tmp_path / "my.safetensors")
    assert found.recipe == load_federation(source).recipe


def test_a_federation_may_take_something_from_its_sites(source, kits):
    text = FEDERATION.replace("tasks: {severity: {}}", "tasks: {severity: {}}\n    threads: &n 2")
    source.write_text(text.replace("rounds: 2", "rounds: *n"))
    run(source, kits)
    assert load_federation(kits / "server" / "federation.yaml").training.rounds == 2


def test_a_site_file_has_the_sites_tasks_and_what_it_allows(source, kits):
    run(source, kits)
    north, south = (open_site_kit(kits / "sites" / name) for name in ("north", "south"))
    site = load_filled(north)
    assert site.name == "north"
    assert site.tasks == load_federation(source).sites["north"].tasks
    assert site.tasks["prognosis"].columns == ("outcome",)
    assert list(load_filled(south).tasks) == ["severity"]
    assert site.state_dir == north.folder / "state"
    assert site.cache_dir == north.folder / "cache"
    policy = yaml.safe_load(north.site_file.read_text())["policy"]
    assert policy == {
        "recipes": [],
        "federations": ["test"],
        "apps": [app_hash()],
        "plugins": [],
        "min_patients_per_update": 10,
        "min_examples": 10,
        "min_examples_per_metric": 10,
        "max_rounds": 2,
        # Twice 2 rounds, the last and two best rounds tested, 4 site cards.
        "max_messages": 11,
        "max_cache": 50,
        "max_upload": 2000,
    }


def test_a_site_that_the_federation_does_not_name_gets_every_task(source, kits):
    run(source, kits, "east")
    spaces = {
        name: task.space
        for name, task in load_filled(open_site_kit(kits / "sites/east")).tasks.items()
    }
    federation = load_federation(source)
    assert all(federation.space(name).disagreement(space) is None for name, space in spaces.items())
    assert list(spaces) == ["prognosis", "severity"]


@pytest.mark.parametrize(
    "space",
    [
        PROGNOSIS | {"classes": ["no", "1", "a: b"]},
        SEVERITY,
        {"kind": "ordinal", "outputs": ["x", "y"], "levels": 3},
        {"kind": "multilabel", "labels": ["Pleural Effusion", "yes"]},
    ],
    ids=lambda space: space["kind"],
)
def test_every_kind_of_task_survives_the_site_file_commented_hints_too(tmp_path, kits, space):
    file = tmp_path / "f.yaml"
    file.write_text(yaml.safe_dump(federation_dict(name="no", tasks={"on": space})))
    run(file, kits, "123")
    kit = open_site_kit(kits / "sites" / "123")
    lines = kit.site_file.read_text().replace("    # columns", "    columns").splitlines()
    hints = [line.replace("    # values", "    values") for line in lines]
    kit.site_file.write_text("\n".join(hints) + "\n")
    site = load_filled(kit)
    assert site.name == "123"
    assert load_federation(file).space("on").disagreement(site.tasks["on"].space) is None
    assert site.tasks["on"].values["9"] == ""
    assert len(site.tasks["on"].columns) == site.tasks["on"].space.width


def test_a_site_gets_the_recipe_with_its_weights_by_content(source, kits, tmp_path):
    weights = tmp_path / "my backbone.pth"
    weights.write_bytes(b"tensors")
    text = source.read_text().replace("weights: none", "weights: my backbone.pth")
    source.write_text(text)
    run(source, kits)
    kit = open_site_kit(kits / "sites" / "north")
    sha256 = hashlib.sha256(b"tensors").hexdigest()
    assert (kit.weights / f"{sha256}.pth").read_bytes() == b"tensors"
    assert f"{sha256}  weights/{sha256}.pth\n" in (kit.folder / "SHA256SUMS").read_text()
    moved = kit.folder.rename(tmp_path / "at the hospital")
    received = load_federation(moved / "federation.yaml")
    assert received.recipe == load_federation(source).recipe
    assert sha256 in received.recipe
    assert not received.sites
    for secret in ("south", str(tmp_path)):
        assert secret not in (moved / "federation.yaml").read_text().replace(str(moved), "")


def test_a_changed_federation_reaches_a_kit_that_was_handed_over(source, kits):
    run(source, kits)
    kit = open_site_kit(kits / "sites" / "north")
    shutil.rmtree(kit.folder)  # the coordinator has sent it
    source.write_text(source.read_text().replace("rounds: 2", "rounds: 7"))
    run(source, kits)
    assert load_federation(kit.federation_file).training.rounds == 7
