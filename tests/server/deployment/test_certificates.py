"""Certificates that TLS libraries accept, from keys that only their owner can read."""

from __future__ import annotations

import ipaddress
import stat
from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_ssh_public_key,
)
from cryptography.x509.verification import PolicyBuilder, Store, VerificationError

from mdmt.deployment.keys import read_certificate, read_key
from mdmt.errors import BadInput
from server.deployment.certificates import (
    issue_ca,
    issue_server_certificate,
    new_key,
    public_key_line,
    write_key,
)

NOW = datetime(2026, 3, 1, tzinfo=UTC)


@pytest.fixture(scope="module")
def ca_key():
    return new_key()


@pytest.fixture(scope="module")
def ca(ca_key):
    return issue_ca(ca_key, "test", NOW)


def verify(certificate, ca, host, time=NOW):
    """Verify as a client that follows RFC 5280 would."""
    name = x509.DNSName(host) if host[-1].isalpha() else x509.IPAddress(ipaddress.ip_address(host))
    policy = PolicyBuilder().store(Store([ca])).time(time)
    policy.build_server_verifier(name).verify(certificate, [])


@pytest.mark.parametrize("host", ["fl.example.org", "192.0.2.7", "2001:db8::7"])
def test_the_server_is_known_by_its_name_and_on_the_loopback(ca, ca_key, host):
    certificate = issue_server_certificate(new_key(), host, ca, ca_key, NOW)
    for name in (host, "localhost", "127.0.0.1", "::1"):
        verify(certificate, ca, name)
    for other in ("other.example.org", "192.0.2.8"):
        with pytest.raises(VerificationError):
            verify(certificate, ca, other)


def test_a_certificate_of_another_ca_of_the_same_name_is_refused(ca, ca_key):
    other_key = new_key()
    other = issue_ca(other_key, "test", NOW)
    assert other.subject == ca.subject
    certificate = issue_server_certificate(new_key(), "fl.example.org", other, other_key, NOW)
    with pytest.raises(VerificationError):
        verify(certificate, ca, "fl.example.org")
    with pytest.raises(InvalidSignature):
        certificate.verify_directly_issued_by(ca)


@pytest.mark.parametrize(("days", "valid"), [(-2, False), (-0.9, True), (396, True), (398, False)])
def test_a_server_certificate_holds_from_yesterday_for_397_days(ca_key, days, valid):
    ca = issue_ca(ca_key, "test", NOW - timedelta(days=30))
    certificate = issue_server_certificate(new_key(), "fl.example.org", ca, ca_key, NOW)
    time = NOW + timedelta(days=days)
    if valid:
        verify(certificate, ca, "fl.example.org", time)
    else:
        with pytest.raises(VerificationError):
            verify(certificate, ca, "fl.example.org", time)


def test_a_ca_holds_for_ten_years_and_signs_servers_only(ca):
    assert ca.not_valid_after_utc == datetime(2036, 3, 1, tzinfo=UTC) - timedelta(days=1)
    constraints = ca.extensions.get_extension_for_class(x509.BasicConstraints)
    assert (constraints.critical, constraints.value.ca, constraints.value.path_length) == (
        True,
        True,
        0,
    )
    usage = ca.extensions.get_extension_for_class(x509.KeyUsage)
    assert usage.critical
    assert usage.value.key_cert_sign
    assert not usage.value.digital_signature


def test_a_server_certificate_signs_nothing(ca, ca_key):
    certificate = issue_server_certificate(new_key(), "fl.example.org", ca, ca_key, NOW)
    extensions = certificate.extensions
    assert not extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    assert not extensions.get_extension_for_class(x509.KeyUsage).value.key_cert_sign
    (purpose,) = extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert purpose == x509.oid.ExtendedKeyUsageOID.SERVER_AUTH


def test_the_longest_names_fit(ca_key):
    ca = issue_ca(ca_key, "f" * 64, NOW)
    host = ".".join(["h" * 63] * 3) + ".org"
    verify(issue_server_certificate(new_key(), host, ca, ca_key, NOW), ca, host)


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
    from pathlib import Path

    seen, write = [], Path.write_bytes

    def watch(path, data):
        seen.append(stat.S_IMODE(path.stat().st_mode))
        return write(path, data)

    monkeypatch.setattr(Path, "write_bytes", watch)
    write_key(new_key(), tmp_path / "k")
    assert seen == [0o600]


def test_the_public_line_is_the_same_key(tmp_path):
    key = new_key()
    line = public_key_line(key, "city-hospital")
    assert line.startswith("ecdsa-sha2-nistp384 ")
    assert line.endswith(" city-hospital\n")
    public = load_ssh_public_key(line.encode())
    assert isinstance(public, ec.EllipticCurvePublicKey)
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
