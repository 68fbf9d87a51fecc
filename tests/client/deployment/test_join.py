"""Keys are born at the hospital, and the coordinator admits what was compared, once."""

from __future__ import annotations

import json
import os
import shutil
import stat

import pytest
from cli_builders import errors, run_cli
from cryptography.hazmat.primitives.asymmetric import ec
from deployment import admit, make_kits

from client.deployment.join import join_site
from mdmt.deployment.join_request import make_request
from mdmt.deployment.keys import fingerprint, new_key, parse_public_key, public_key_line, read_key
from mdmt.deployment.kits import open_server_kit, open_site_kit
from mdmt.files import write_json
from server.deployment.admission import admitted_key, note_revoked


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    kits = make_kits(tmp_path_factory.mktemp("kits"), "clinic", "ward").folder.parent
    for file in [*kits.rglob("*.pub"), *kits.rglob("site.key"), *kits.rglob("*.request")]:
        file.unlink()
    return kits


@pytest.fixture
def kits(made, tmp_path):
    return shutil.copytree(made, tmp_path / "kits")


@pytest.fixture
def server(kits):
    return open_server_kit(kits / "server")


@pytest.fixture
def site(kits):
    return open_site_kit(kits / "sites" / "clinic")


def admit_by_command(server, request, *options, answer=None):
    command = ("server", "admit", request, "--kit", server.folder, *options)
    return run_cli(*command, answer=answer)


def refused(done):
    """The one line that a command says when it refuses."""
    assert done.exit_code == 2, done.output
    (line,) = errors(done)
    return line


def test_a_site_joins_with_a_key_of_its_own(site, server):
    before = os.umask(0)
    try:
        said = run_cli("site", "join", site.folder)
    finally:
        os.umask(before)
    assert said.exit_code == 0, said.output
    assert stat.S_IMODE(site.private_key.stat().st_mode) == 0o600
    key = read_key(site.private_key, openssh=True)
    assert key.curve.name == "secp384r1"
    told = fingerprint(key.public_key())
    assert said.stdout.startswith(f"the key of clinic: {told}\n")
    assert str(site.request_file) in said.stdout
    assert b"PRIVATE" not in site.request_file.read_bytes()

    done = admit_by_command(server, site.request_file, "--fingerprint", told)
    assert done.exit_code == 0, done.output
    line = server.public_key("clinic").read_text()
    assert line == public_key_line(key.public_key(), "clinic") + "\n"
    assert server.admitted == ("clinic",)


def test_a_second_run_changes_nothing_and_says_the_same(site):
    first = run_cli("site", "join", site.folder)
    before = {f: (f.read_bytes(), f.stat().st_mtime_ns) for f in site.folder.iterdir()}
    assert run_cli("site", "join", site.folder).stdout == first.stdout
    assert {f: (f.read_bytes(), f.stat().st_mtime_ns) for f in site.folder.iterdir()} == before


def test_a_request_of_a_former_key_is_replaced(site):
    former = join_site(site)
    site.private_key.unlink()
    now = join_site(site)
    assert now.fingerprint != former.fingerprint
    key = json.loads(site.request_file.read_text())["key"]
    assert fingerprint(parse_public_key(key)) == now.fingerprint


def test_a_fingerprint_that_differs_admits_nothing(site, server):
    join_site(site)
    other = fingerprint(new_key().public_key())
    line = refused(admit_by_command(server, site.request_file, "--fingerprint", other))
    assert f"not {other}: admit nothing" in line
    assert server.admitted == ()


@pytest.mark.parametrize(("answer", "admitted"), [("y\n", ("clinic",)), ("n\n", ()), ("", ())])
def test_without_options_the_coordinator_is_asked(site, server, answer, admitted):
    joining = join_site(site)
    done = admit_by_command(server, site.request_file, answer=answer)
    assert joining.fingerprint in done.stdout
    assert (done.exit_code == 0) == bool(admitted)
    assert server.admitted == admitted


def test_to_admit_twice_is_no_error(site, server):
    join_site(site)
    for _ in range(2):
        done = admit_by_command(server, site.request_file, "--yes")
        assert done.exit_code == 0
    assert "already" in done.stdout


def test_another_key_of_an_admitted_site_must_wait_until_the_former_is_revoked(site, server):
    """Else whoever sends a request could take the place of a site."""
    former = join_site(site)
    assert admit_by_command(server, site.request_file, "--yes").exit_code == 0
    site.private_key.unlink()
    join_site(site)
    line = refused(admit_by_command(server, site.request_file, "--yes"))
    assert f"admitted with another key, {former.fingerprint}" in line
    note_revoked(server, "clinic")
    assert server.admitted == ()
    assert admit_by_command(server, site.request_file, "--yes").exit_code == 0


def test_a_revoked_key_is_never_admitted_again(site, server):
    admit(server, "clinic")
    note_revoked(server, "clinic")
    line = refused(admit_by_command(server, site.request_file, "--yes"))
    assert "was revoked" in line
    assert "delete site.key" in line
    note_revoked(server, "clinic")  # there is nothing more to revoke


def test_a_key_is_of_one_site_only(kits, site, server):
    admit(server, "clinic")
    ward = open_site_kit(kits / "sites" / "ward")
    shutil.copy(site.private_key, ward.private_key)
    join_site(ward)
    assert "clinic has this key" in refused(admit_by_command(server, ward.request_file, "--yes"))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"name": "ward"}, "the signature does not fit"),
        ({"federation": "other"}, "the signature does not fit"),
        ({"key": public_key_line(new_key().public_key())}, "the signature does not fit"),
        ({"signature": "AAAA"}, "the signature does not fit"),
        ({"signature": "not base64"}, "the signature does not fit"),
        ({"key": "ssh-ed25519 AAAA"}, "not an ECDSA P-384 key"),
        ({"format": 2}, "not the request of a site"),
        ({"more": "keys"}, "not the request of a site"),
        ({"name": "../ward"}, "not the request of a site"),
        ({"key": "k" * 5000}, "not the request of a site"),
    ],
)
def test_a_request_that_was_changed_is_refused(site, server, change, says):
    join_site(site)
    write_json(site.request_file, json.loads(site.request_file.read_text()) | change)
    assert says in refused(admit_by_command(server, site.request_file, "--yes"))
    assert server.admitted == ()


@pytest.mark.parametrize(
    ("federation", "name", "says"),
    [
        ("other", "clinic", "for the federation other, not demo"),
        ("demo", "stranger", "stranger is not a site of this kit: add it with mdmt provision"),
    ],
)
def test_requests_of_others_are_refused(server, tmp_path, federation, name, says):
    file = tmp_path / "a.request"
    file.write_text(make_request(federation, name, new_key()).model_dump_json())
    assert says in refused(admit_by_command(server, file, "--yes"))


def test_a_weaker_curve_is_refused(server, tmp_path):
    file = tmp_path / "a.request"
    weak = ec.generate_private_key(ec.SECP256R1())
    file.write_text(make_request("demo", "clinic", weak).model_dump_json())
    assert "not an ECDSA P-384 key" in refused(admit_by_command(server, file, "--yes"))


@pytest.mark.parametrize("content", [None, b"", b"\xff\xfe", b"null", b"{"])
def test_what_is_no_request(server, tmp_path, content):
    file = tmp_path / "a.request"
    if content is not None:
        file.write_bytes(content)
    assert f"{file}: " in refused(admit_by_command(server, file, "--yes"))


def test_a_damaged_public_key_is_named(server):
    server.public_key("clinic").parent.mkdir(exist_ok=True)
    server.public_key("clinic").write_text("no key")
    with pytest.raises(Exception, match="run mdmt server admit again"):
        admitted_key(server, "clinic")
