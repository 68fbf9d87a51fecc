"""Keys that only their owner can read, and fingerprints that people can compare."""

from __future__ import annotations

import shutil
import stat
import subprocess
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

from mdmt.deployment.keys import (
    fingerprint,
    new_key,
    parse_public_key,
    public_key_line,
    read_certificate,
    read_key,
    write_key,
)
from mdmt.errors import BadInput

KNOWN = (
    "ecdsa-sha2-nistp384 AAAAE2VjZHNhLXNoYTItbmlzdHAzODQAAAAIbmlzdHAzODQAAABhBLsz62biwAd+"
    "2Xye9kCxoOXcHAa6gQGzX4biF2GBYYmzGy+nfYa6ZsKhSTsY/P6Xz+SJnqBzFhrqCu8VDNJ1zgHbSDBH8q8/gvM6IgA2UVEkdyz1eNFeD2vGsgU/oufLNg=="
)
PRINT = "SHA256:a9U/mm66bVHMGeYc9jHVUgUd0h8R12jFHNQoBsvHQJA"


@pytest.mark.parametrize("openssh", [True, False])
def test_a_key_comes_back_and_is_for_its_owner_only(tmp_path, openssh):
    key, file = new_key(), tmp_path / "k"
    write_key(key, file, openssh=openssh)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert read_key(file, openssh=openssh).private_numbers() == key.private_numbers()
    assert (b"OPENSSH" in file.read_bytes()) == openssh
    with pytest.raises(BadInput, match="not a private key"):
        read_key(file, openssh=not openssh)


def test_a_key_is_never_readable_by_others_while_it_is_written(tmp_path, monkeypatch):
    seen, write = [], Path.write_bytes

    def watch(path, data):
        seen.append(stat.S_IMODE(path.stat().st_mode))
        return write(path, data)

    monkeypatch.setattr(Path, "write_bytes", watch)
    write_key(new_key(), tmp_path / "k")
    assert seen == [0o600]


def test_the_public_line_is_the_same_key(tmp_path):
    key = new_key()
    line = public_key_line(key.public_key(), "city-hospital")
    assert line.startswith("ecdsa-sha2-nistp384 ")
    assert line.endswith(" city-hospital")
    public = parse_public_key(line)
    assert public.public_numbers() == key.public_key().public_numbers()


def test_keys_that_are_not_ours_are_refused(tmp_path):
    file = tmp_path / "k"
    big = rsa.generate_private_key(65537, 2048)
    file.write_bytes(big.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    with pytest.raises(BadInput, match="not an ECDSA key"):
        read_key(file)
    locked = BestAvailableEncryption(b"secret")
    file.write_bytes(new_key().private_bytes(Encoding.PEM, PrivateFormat.PKCS8, locked))
    with pytest.raises(BadInput, match="not a private key"):
        read_key(file)
    file.write_text("no certificate")
    with pytest.raises(BadInput, match="not a certificate"):
        read_certificate(file)


def test_a_known_fingerprint():
    """Printed by ``ssh-keygen -lf`` (OpenSSH 9.2) for this public key."""
    key = parse_public_key(KNOWN)
    assert fingerprint(key) == PRINT


@pytest.mark.skipif(shutil.which("ssh-keygen") is None, reason="OpenSSH is not installed")
def test_fingerprints_are_those_of_ssh_keygen(tmp_path):
    key, file = new_key(), tmp_path / "k.pub"
    file.write_text(public_key_line(key.public_key(), "clinic") + "\n")
    said = subprocess.run(["ssh-keygen", "-lf", file], capture_output=True, text=True, check=True)
    assert said.stdout.split()[:3] == ["384", fingerprint(key.public_key()), "clinic"]


def test_other_keys_are_no_public_keys_of_a_site():
    others = ec.generate_private_key(ec.SECP256R1()), ed25519.Ed25519PrivateKey.generate()
    lines = [k.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH) for k in others]
    for line in (*(line.decode() for line in lines), "", "ecdsa-sha2-nistp384 AAAA", "ä"):
        with pytest.raises(ValueError):
            parse_public_key(line)
