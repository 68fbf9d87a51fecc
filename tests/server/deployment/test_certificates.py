"""Certificates that TLS libraries accept, from keys that only their owner can read."""

from __future__ import annotations

import ipaddress
from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.x509.verification import PolicyBuilder, Store, VerificationError

from mdmt.deployment.keys import new_key
from server.deployment.certificates import (
    issue_ca,
    issue_server_certificate,
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
