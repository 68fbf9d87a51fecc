"""Kits: whole, apart from each other, and never written over."""

from __future__ import annotations

import os
import shutil
import ssl
import stat
import subprocess
from importlib.metadata import version

import pytest
import yaml
from builders import federation_dict
from kit_builders import FEDERATION, SERVER, contents, outcomes, private_keys, run

from mdmt.config import load_federation
from mdmt.deployment.keys import read_certificate
from mdmt.deployment.kits import open_server_kit, open_site_kit
from mdmt.errors import BadInput
from server.deployment.bundle import app_hash

SITE_FILES = {
    *("kit.json", "ca.crt", "site.yaml", "federation.yaml", "constraints.txt", "SHA256SUMS"),
    *("README.md", "start.sh", "mdmt-site.service"),
}


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


def test_the_server_certificate_is_signed_by_the_ca_of_every_kit(source, kits):
    run(source, kits)
    kit = open_server_kit(kits / "server")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(kit.certificate, kit.private_key)  # the key fits
    for folder in ("server", "sites/north", "sites/south", "ca"):
        ca = read_certificate(kits / folder / "ca.crt")
        read_certificate(kit.certificate).verify_directly_issued_by(ca)
