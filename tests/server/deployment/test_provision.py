"""Kits: whole, apart from each other, and never written over."""

from __future__ import annotations

import hashlib
import os
import shutil
import ssl
import stat
import subprocess
from importlib.metadata import version

import pytest
import yaml
from builders import PROGNOSIS, SEVERITY, federation_dict

from mdmt.config import SiteConfig, find_config, load_federation, load_site
from mdmt.deployment.keys import read_certificate
from mdmt.deployment.kits import open_server_kit, open_site_kit
from mdmt.errors import BadInput
from server.deployment.bundle import app_hash
from server.deployment.provision import provision

SITE_FILES = {
    *("kit.json", "ca.crt", "site.yaml", "federation.yaml", "constraints.txt", "SHA256SUMS"),
    *("README.md", "start.sh", "mdmt-site.service"),
}
SERVER = "fl.example.org:9092"
FEDERATION = """\
# What my colleagues have to know.
name: test
model:
  backbone: test_resnet   # tiny
  weights: none
  image_size: 32
sites:
  north:
    dataset: {kind: synthetic}
    tasks: {prognosis: {values: {1: SEVERE, 0: MILD}, columns: outcome}}
  south:
    dataset: {kind: synthetic}
    tasks: {severity: {}}
tasks:   # after the sites
  prognosis: {kind: classification, classes: [MILD, SEVERE]}
  severity: {kind: regression, outputs: [A, B, C, D, E, F], range: [0, 3], mirror: {A: D}}
training: {rounds: 2, local_steps: 2, batch_size: 8}
"""


@pytest.fixture
def source(tmp_path):
    file = tmp_path / "federation.yaml"
    file.write_text(FEDERATION)
    return file


@pytest.fixture
def kits(tmp_path):
    return tmp_path / "kits"


def run(source, kits, *sites, server=SERVER, bind=None):
    done = provision(load_federation(source), source, server, kits, sites, bind)
    return {item.what: item for item in done}


def outcomes(done):
    return {name: item.done for name, item in done.items()}


def contents(folder):
    return {file: file.read_bytes() for file in sorted(folder.rglob("*")) if file.is_file()}


def private_keys(kits):
    return [file for file in kits.rglob("*.key") if file.is_file()]


def load_filled(kit):
    """Load a site's file; `policy` belongs to a model that this branch may not have."""
    text = kit.site_file.read_text()
    if "policy" not in SiteConfig.model_fields:
        kit.site_file.write_text(text.partition("\npolicy:")[0] + "\n")
    site = load_site(kit.site_file)
    kit.site_file.write_text(text)
    return site


def test_every_party_gets_its_kit(source, kits):
    assert outcomes(run(source, kits)) == dict.fromkeys(["ca", "server", "north", "south"], "made")
    server = open_server_kit(kits / "server")
    assert server.facts.sites == ("north", "south")
    assert (server.facts.superlink_port, server.facts.health_port) == (9093, 9094)
    for name in server.facts.sites:
        site = open_site_kit(kits / "sites" / name)
        assert site.facts.server == SERVER
        assert site.facts.app == server.facts.app == app_hash()
        assert set(site.facts.versions) == {"mdmt", "flwr", "torch", "timm"}
        assert site.ca_certificate.read_bytes() == server.ca_certificate.read_bytes()
        assert {file.name for file in site.folder.iterdir()} == SITE_FILES
    assert server.admitted == ()
    for file in ("start.sh", "mdmt-server.service", "README.md", "nginx.conf"):
        assert (server.folder / file).is_file()


def test_no_kit_of_a_site_holds_a_private_key(source, kits):
    run(source, kits)
    keys = private_keys(kits)
    assert {key.relative_to(kits).as_posix() for key in keys} == {"ca/ca.key", "server/server.key"}
    for file, content in contents(kits).items():
        assert (b"PRIVATE KEY" in content) == (file in keys)
        for key in keys:
            secret = b"".join(key.read_bytes().splitlines()[1:-1])
            assert (secret in content.replace(b"\n", b"")) == (file == key), (key, file)


def test_what_a_site_received_can_be_checked(source, kits):
    run(source, kits)
    site = kits / "sites" / "north"
    check = ["sha256sum", "--check", "--strict", "--quiet", "SHA256SUMS"]
    assert subprocess.run(check, cwd=site, check=False).returncode == 0
    named = {line.split()[1] for line in (site / "SHA256SUMS").read_text().splitlines()}
    assert named == SITE_FILES - {"SHA256SUMS"}
    (site / "federation.yaml").write_text("name: other\n")
    assert subprocess.run(check, cwd=site, capture_output=True, check=False).returncode == 1


def test_a_site_installs_the_versions_of_the_coordinator(source, kits):
    run(source, kits)
    comment, *lines = (kits / "sites" / "north" / "constraints.txt").read_text().splitlines()
    assert comment.startswith("# ")
    pins = dict(line.split("==") for line in lines)
    assert "mdmt" not in pins, "a package index may have another package of this name"
    assert pins["flwr"] == version("flwr")
    assert pins["torch"] == version("torch").partition("+")[0]
    assert not [line for line in lines if "+" in line or " " in line]


def test_only_the_owner_can_read_keys_whatever_the_umask(source, kits):
    before = os.umask(0)
    try:
        run(source, kits)
    finally:
        os.umask(before)
    for key in private_keys(kits):
        assert stat.S_IMODE(key.stat().st_mode) == 0o600
        assert stat.S_IMODE(key.parent.stat().st_mode) == 0o700


def test_run_again_keeps_every_key_and_what_was_filled_in(source, kits):
    run(source, kits)
    filled = kits / "sites" / "north" / "site.yaml"
    filled.write_text("name: north  # filled in\n")
    (kits / "server" / "start.sh").write_text("changed")
    before = contents(kits)
    assert set(outcomes(run(source, kits)).values()) == {"kept"}
    after = contents(kits)
    changed = {str(f.relative_to(kits)) for f in after if before.get(f) != after[f]}
    assert changed == {"server/server.crt", "sites/north/SHA256SUMS"}
    assert before.keys() == after.keys()


def test_what_is_missing_is_added(source, kits):
    run(source, kits)
    missing = [kits / "sites" / "north" / "README.md", kits / "server" / "nginx.conf"]
    for file in missing:
        file.unlink()
    run(source, kits)
    assert all(file.is_file() for file in missing)


def test_a_site_may_join_later(source, kits):
    run(source, kits, "east")
    assert open_server_kit(kits / "server").facts.sites == ("east",)
    assert outcomes(run(source, kits, "west")) == {
        "ca": "kept",
        "server": "kept",
        "east": "kept",
        "west": "made",
    }
    assert open_server_kit(kits / "server").facts.sites == ("east", "west")


def test_admitted_keys_and_kits_that_were_handed_over_stay(source, kits):
    run(source, kits)
    server = open_server_kit(kits / "server")
    server.public_key("north").parent.mkdir()
    server.public_key("north").write_text("a key")
    shutil.rmtree(kits / "sites" / "north")
    assert outcomes(run(source, kits))["north"] == "made"
    assert server.public_key("north").read_text() == "a key"


def test_a_ca_key_that_was_put_away_is_asked_for(source, kits):
    run(source, kits)
    (kits / "ca" / "ca.key").unlink()
    before = contents(kits)
    with pytest.raises(BadInput, match=r"ca\.key: not there"):
        run(source, kits, "east")
    assert contents(kits) == before


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"server": "other.example.org:9092"}, "for the server fl.example.org:9092, not other"),
        ({"name": "other"}, "for the federation test, not other"),
    ],
)
def test_kits_of_something_else_are_left_alone(source, kits, change, says):
    run(source, kits)
    before = contents(kits)
    source.write_text(FEDERATION.replace("name: test", f"name: {change.get('name', 'test')}"))
    server = change.get("server", SERVER)
    with pytest.raises(BadInput, match=says):
        run(source, kits, server=server)
    assert contents(kits) == before


def test_a_federation_that_changed_replaces_the_old_one_which_is_kept(source, kits):
    run(source, kits)
    file = kits / "server" / "federation.yaml"
    old = file.read_text()
    source.write_text(FEDERATION.replace("rounds: 2", "rounds: 3"))
    done = run(source, kits)
    assert load_federation(file).training.rounds == 3
    (backup,) = done["server"].saved
    assert backup.read_text() == old


@pytest.mark.parametrize("name", ["", "../up", "a b", "a/b", "-a", "a" * 65])
def test_names_that_cannot_be_folders_are_refused_before_anything_is_written(source, kits, name):
    with pytest.raises(BadInput, match="--site"):
        run(source, kits, "fine", name)
    assert not kits.exists()


@pytest.mark.parametrize("server", ["fl.example.org", "fl.example.org:65534"])
def test_addresses_that_cannot_be_served_are_refused(source, kits, server):
    with pytest.raises(BadInput):
        run(source, kits, server=server)
    assert not kits.exists()


def test_a_federation_without_sites_says_what_to_type(tmp_path, kits):
    file = tmp_path / "f.yaml"
    file.write_text(yaml.safe_dump(federation_dict()))
    with pytest.raises(BadInput, match="add --site NAME"):
        run(file, kits)


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


@pytest.mark.parametrize("server", ["192.0.2.7:443", "[2001:db8::7]:443"])
def test_privileged_ports_and_ipv6(source, kits, server):
    run(source, kits, server=server)
    assert unit(kits, "server")["AmbientCapabilities"] == "CAP_NET_BIND_SERVICE"
    proxy = (kits / "server" / "nginx.conf").read_text()
    assert "listen 0.0.0.0:443 ssl;" in proxy
    assert ("listen [::]:443 ssl;" in proxy) == server.startswith("[")


@pytest.mark.parametrize(
    ("bind", "line"),
    [
        (None, "listen 0.0.0.0:9092 ssl;"),
        ("192.0.2.7", "listen 192.0.2.7:9092 ssl;"),
        ("2001:db8::7", "listen [2001:db8::7]:9092 ssl;"),
    ],
)
def test_the_proxy_listens_on_the_address_that_was_given(source, kits, bind, line):
    for given in (bind, None):  # the second time, the first one is kept
        run(source, kits, bind=given)
        text = (kits / "server" / "nginx.conf").read_text()
        assert [found.strip() for found in text.splitlines() if "listen" in found] == [line]


@pytest.mark.parametrize("bind", ["fl.example.org", "0.0.0.0; }", "", "fe80::1%eth0"])
def test_only_an_ip_address_can_be_listened_on(source, kits, bind):
    with pytest.raises(BadInput, match="--bind"):
        run(source, kits, bind=bind)
    assert not kits.exists()


def test_an_nginx_conf_that_was_changed_by_hand_is_not_overwritten(source, kits, caplog):
    run(source, kits)
    file = kits / "server" / "nginx.conf"
    written = file.read_text()
    file.write_text(written.replace("server_tokens off", "server_tokens on"))
    changed = file.read_text()
    run(source, kits, bind="192.0.2.7")
    assert file.read_text() == changed
    assert f"{file} was changed by hand and is used as it is; delete it" in caplog.text
    file.unlink()
    run(source, kits)
    assert "listen 192.0.2.7:9092 ssl;" in file.read_text()


def unit(kits, role):
    """The settings of a unit; a key that occurs twice is an error."""
    folder = kits / "server" if role == "server" else kits / "sites" / "north"
    lines = (folder / f"mdmt-{role}.service").read_text().splitlines()
    pairs = [line.split("=", 1) for line in lines if "=" in line and line[0] != "#"]
    assert len(dict(pairs)) == len(pairs)
    return dict(pairs)


def test_a_site_comes_back_after_flowers_heartbeat_window(source, kits):
    run(source, kits)
    settings = unit(kits, "site")
    assert settings["Restart"] == "always"
    assert int(settings["RestartSec"]) > 60
    assert settings["StartLimitIntervalSec"] == "0"


@pytest.mark.parametrize("role", ["server", "site"])
def test_units_allow_what_the_service_needs_and_no_more(source, kits, role):
    run(source, kits)
    settings = unit(kits, role)
    assert settings["SystemCallFilter"] == "@system-service"
    assert settings["SystemCallArchitectures"] == "native"
    assert settings["RestrictAddressFamilies"] == "AF_INET AF_INET6 AF_UNIX"
    assert settings["ProtectProc"] == "invisible"
    assert settings["KeyringMode"] == "private"
    assert settings["CapabilityBoundingSet"] == ""
    kernel = ("Tunables", "Modules", "Logs")
    for key in (*(f"ProtectKernel{k}" for k in kernel), "ProtectHostname", "ProtectControlGroups"):
        assert settings[key] == "yes"
    for key in ("NoNewPrivileges", "RestrictNamespaces", "RestrictRealtime", "RestrictSUIDSGID"):
        assert settings[key] == "yes"
    # PyTorch without /proc/cpuinfo computes other bits, and CUDA needs devices and code in memory.
    assert not {"ProcSubset", "MemoryDenyWriteExecute"} & settings.keys()
    for_gpus = {"PrivateDevices", "ProtectClock"} & settings.keys()
    assert for_gpus == (set() if role == "site" else {"PrivateDevices", "ProtectClock"})


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd is not installed")
def test_systemd_takes_the_units(source, kits, tmp_path):
    run(source, kits)
    program = shutil.which("true")
    for number, file in enumerate(kits.rglob("*.service")):
        copy = tmp_path / str(number) / file.name
        copy.parent.mkdir()
        copy.write_text(file.read_text().replace("/opt/mdmt/venv/bin/mdmt", str(program)))
        check = subprocess.run(
            ["systemd-analyze", "verify", str(copy)], capture_output=True, text=True, check=False
        )
        assert check.stderr == ""
        assert check.returncode == 0
        judge = ["systemd-analyze", "security", "--offline=true", "--threshold=25", str(copy)]
        judged = subprocess.run(judge, capture_output=True, text=True, check=False)
        assert judged.returncode == 0, judged.stdout[-300:]  # exposure of at most 2.5 of 10


def test_start_scripts_run_from_anywhere(source, kits, tmp_path):
    run(source, kits)
    (tmp_path / "bin").mkdir()
    mdmt = tmp_path / "bin" / "mdmt"
    mdmt.write_text('#!/bin/sh\necho "$@"\n')
    mdmt.chmod(0o755)
    environment = {"PATH": f"{mdmt.parent}:{os.defpath}"}
    for folder, role in ((kits / "server", "server"), (kits / "sites" / "north", "site")):
        script = str(folder / "start.sh")
        said = subprocess.run([script], cwd="/", env=environment, capture_output=True, text=True)
        assert said.stdout.split() == [role, "start", str(folder)]


def test_the_server_certificate_is_signed_by_the_ca_of_every_kit(source, kits):
    run(source, kits)
    kit = open_server_kit(kits / "server")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(kit.certificate, kit.private_key)  # the key fits
    for folder in ("server", "sites/north", "sites/south", "ca"):
        ca = read_certificate(kits / folder / "ca.crt")
        read_certificate(kit.certificate).verify_directly_issued_by(ca)


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
