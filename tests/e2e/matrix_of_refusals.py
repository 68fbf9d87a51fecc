"""Who is not let in, and what a site does not do, or not even start with (`make e2e`)."""

from __future__ import annotations

import shutil
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path

import pytest
from deployment import flower_settings, free_ports, proxy, serve
from disks import full_disk
from real_federation import SITES, RealFederation

import client
from mdmt.deployment.keys import new_key, read_certificate, read_key, write_key
from mdmt.deployment.kits import KIT_FILE, open_server_kit, open_site_kit
from mdmt.deployment.processes import free_port
from mdmt.files import read_json, write_json
from server.deployment.bundle import APP
from server.deployment.certificates import (
    certificate_pem,
    issue_ca,
    issue_server_certificate,
)
from server.deployment.control import control
from server.deployment.proxy import write_proxy_config
from server.flower import start_run

pytestmark = [pytest.mark.e2e, pytest.mark.slow]


@pytest.fixture(autouse=True)
def _at_rest(real):
    real.at_rest()


def supernode(real: RealFederation, kit, *options):
    """What Flower's SuperNode says that does not get in, with a kit's files unless told else."""
    opened = open_site_kit(kit)
    key, ca = opened.private_key, opened.ca_certificate
    options = options or ("--auth-supernode-private-key", key, "--root-certificates", ca)
    done = real.flower(
        *("flower-supernode", "--superlink", opened.facts.server, "--max-retries", 1),
        *("--isolation", "process", "--port", free_port(), *options),
        home=kit / "flwr",
    )
    assert done.returncode != 0
    return done.stdout + done.stderr


def complaints(done: subprocess.CompletedProcess[str]) -> list[str]:
    """The lines in which a command says why it does nothing."""
    assert done.returncode == 2, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    return [line for line in done.stderr.splitlines() if line.startswith("error: ")]


def check(real, kit):
    return complaints(real.mdmt("site", "check", kit, check=False))


def start(real, kit):
    """The one line that a site's start says."""
    done = real.mdmt("site", "start", kit, check=False)
    (line,) = complaints(done)
    assert done.stderr.strip() == line
    return line


def test_a_key_that_is_not_registered_is_not_let_in(real):
    kit = real.copy_kit("ward", "unregistered")
    write_key(new_key(), kit / "site.key", openssh=True)
    assert "Failed to activate SuperNode" in supernode(real, kit)
    (line,) = check(real, kit)
    assert line.startswith("error: registered: not admitted yet")


def test_a_site_with_anothers_key_is_refused_by_name(real):
    real.stop("ward")
    kit = real.copy_kit("clinic", "impostor")
    shutil.copy(real.site_kit("ward") / "site.key", kit / "site.key")
    real.start("impostor", "site", "start", kit)
    real.wait(lambda: real.online() == set(SITES), "the impostor")
    said = real.complete_run("impostor-run")
    real.stop("impostor")
    assert "refused: ward: holds the key of ward but says it is clinic" in said
    assert set(read_json(real.folder / "impostor-run" / "sites.json")["sites"]) == {
        "clinic",
        "hospital",
    }


def test_no_tls_is_no_way_in(real):
    kit = real.copy_kit("ward", "no-tls")
    assert "400 Bad Request" in supernode(real, kit, "--insecure")


def test_a_server_of_another_ca_is_not_trusted(real):
    kit = real.copy_kit("ward", "other-ca")
    (kit / "ca.crt").write_text(certificate_pem(issue_ca(new_key(), "test")))
    assert "CERTIFICATE_VERIFY_FAILED" in supernode(real, kit)
    assert any(
        line.startswith("error: certificate: the server's certificate is not of this federation's")
        for line in check(real, kit)
    )


@pytest.fixture
def expired(real):
    """A door to the same SuperLink whose certificate has expired; a site's kit for it."""
    folder = real.folder / "expired-server"
    folder.mkdir()
    for name in ("ca.crt", "server.key"):
        shutil.copy(real.server_kit.folder / name, folder / name)
    address = f"localhost:{free_ports(1)}"
    write_json(
        folder / KIT_FILE, read_json(real.server_kit.folder / KIT_FILE) | {"server": address}
    )
    ca = real.folder / "kits" / "ca"
    certificate = issue_server_certificate(
        read_key(folder / "server.key"),
        "localhost",
        read_certificate(ca / "ca.crt"),
        read_key(ca / "ca.key"),
        datetime.now(UTC) - timedelta(days=400),
    )
    (folder / "server.crt").write_text(certificate_pem(certificate))
    kit = open_server_kit(folder)
    write_proxy_config(kit)
    with proxy(kit):
        yield real.copy_kit("ward", "expired", server=address)


def test_a_certificate_that_expired_is_not_trusted(real, expired):
    assert "certificate has expired" in supernode(real, expired)
    assert any(
        line.startswith("error: certificate: the server's certificate has expired")
        for line in check(real, expired)
    )


def test_flowers_own_commands_do_not_pass_the_proxy(real, tmp_path):
    def listed(home):
        return real.flower("flwr", "list", "mdmt", "--format", "json", home=home)

    kit = real.server_kit
    inside = flower_settings(tmp_path / "in", f"127.0.0.1:{kit.facts.superlink_port}", kit)
    assert listed(inside).returncode == 0, "on the server itself"
    done = listed(flower_settings(tmp_path / "out", kit.facts.server, kit))
    assert "403 Forbidden" in done.stdout + done.stderr
    refused = (kit.run_folder / "refused.log").read_text().splitlines()
    assert any("/v1/control/list-runs" in line and " 403 " in line for line in refused)


def test_a_site_whose_policy_forbids_a_run_is_left_out_by_name(real):
    real.fill_in("ward", policy={"max_rounds": 2})
    try:
        said = real.complete_run("forbidden")
    finally:
        real.fill_in("ward", policy={"max_rounds": None})
    why = "site ward: policy: max_rounds allows 2, the federation asks for 3"
    assert f"refused: ward: {why}" in " ".join(said.split())
    sites = read_json(real.folder / "forbidden" / "sites.json")["sites"]
    assert set(sites) == {"clinic", "hospital"}


def test_a_client_whose_policy_check_is_deleted_is_refused_before_it_is_imported(real, tmp_path):
    app, imported = tmp_path / "app", tmp_path / "imported"
    shutil.copytree(
        Path(client.__file__).parent, app / "client", ignore=shutil.ignore_patterns("__pycache__")
    )
    policy = app / "client" / "policy.py"
    hollow = policy.read_text().replace("raise PolicyError", "print")
    assert hollow != policy.read_text()
    policy.write_text(hollow)
    marker = f"import sys\nopen({str(imported)!r}, 'a').write(f'{{sys.orig_argv}}\\n')\n"
    (app / "client" / "__init__.py").write_text(marker)
    subprocess.run([sys.executable, "-c", "import client.policy"], cwd=app, check=True)
    assert imported.read_text() != "", "an import leaves a mark"
    imported.unlink()
    out = real.folder / "hollow"
    files = {str(f.relative_to(app)): f.read_bytes() for f in app.rglob("*.py")}
    with control(real.server_kit) as ask:
        start_run(ask, APP | files, {"federation": real.config_file, "out": out, "resume": False})
    event = real.wait_for_event("hollow", "failed")
    for site in SITES:
        assert f"{site}: policy: apps does not list" in event["message"]
    assert not imported.exists(), imported.read_text()


def test_a_site_does_not_start_without_its_dataset(real):
    kit = real.copy_kit("ward", "no-dataset")
    table = {"kind": "table", "root": "/nowhere", "table": "labels.csv"}
    real.fill_in("no-dataset", dataset=table | {"image": "image", "patient": "patient"})
    line = start(real, kit)
    assert line.startswith("error: dataset: ")
    assert "/nowhere" in line


def test_a_site_does_not_start_without_its_gpu(real):
    kit = real.copy_kit("ward", "no-gpu")
    real.fill_in("no-gpu", device="cuda:7")
    assert start(real, kit).startswith("error: device: cuda:7 is not there")


def test_a_site_does_not_start_on_a_full_disk(real):
    kit = real.copy_kit("ward", "full")
    with full_disk(kit / "state"):
        line = start(real, kit)
    assert line.startswith("error: state_dir: ")
    assert "the disk is full" in line


def test_a_site_does_not_start_with_a_clock_that_is_ten_minutes_off(real):
    server, port = real.server_kit, free_port()
    kit = real.copy_kit("ward", "wrong-clock", server=f"localhost:{port}")
    date = format_datetime(datetime.now(UTC) + timedelta(minutes=10), usegmt=True)
    with serve(port, server.certificate, server.private_key, date=date):
        line = start(real, kit)
    assert line.startswith("error: clock: 10 min behind the server's; set the clock")


def test_a_site_that_runs_already_is_not_started_beside_itself(real):
    done = real.mdmt("site", "start", real.site_kit("ward"), check=False)
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    running = real.processes["ward"].pid
    assert line == f"error: the site ward runs already, as process {running}"


def test_a_revoked_site_comes_back_with_a_new_key_only(real):
    """After a theft: the thief is out at once, the site is in again with another key."""
    real.stop("ward")
    thief, kit = real.copy_kit("ward", "thief"), real.site_kit("ward")
    real.mdmt("server", "revoke", "ward", "--kit", "kits/server")
    for folder in (thief, kit):
        (line,) = [said for said in check(real, folder) if "registered" in said]
        assert line.startswith("error: registered: not admitted yet")
    again = ("server", "admit", kit / "ward.request", "--kit", "kits/server", "--yes")
    assert "was revoked" in real.mdmt(*again, check=False).stderr
    (kit / "site.key").unlink()
    real.join("ward")
    real.wait(lambda: "ward is registered" in real.log("server").rpartition("revoked")[2], "ward")
    real.at_rest()
    (line,) = [said for said in check(real, thief) if "registered" in said]
    assert line.startswith("error: registered: not admitted yet")
