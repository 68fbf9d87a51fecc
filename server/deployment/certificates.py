"""The certificates of a deployment: a CA and the server's certificate."""

from __future__ import annotations

import ipaddress
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.ec import (
    EllipticCurvePrivateKey,
    EllipticCurvePublicKey,
)
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from mdmt.deployment.keys import read_certificate
from mdmt.errors import BadInput

CA_LIFETIME = timedelta(days=3652)
SERVER_LIFETIME = timedelta(days=397)
"""The longest that browsers and many TLS libraries accept."""
CLOCK_TOLERANCE = timedelta(days=1)
"""A new certificate is valid for a site whose clock is behind by less than this."""
_USAGES = (
    *("digital_signature", "content_commitment", "key_encipherment", "data_encipherment"),
    *("key_agreement", "key_cert_sign", "crl_sign", "encipher_only", "decipher_only"),
)


def issue_ca(
    key: EllipticCurvePrivateKey, federation: str, now: datetime | None = None
) -> x509.Certificate:
    """Issue the self-signed certificate of a federation's CA, valid for ten years from `now`."""
    name = _name(federation, "MDMT CA")
    basis = _certificate(name, name, key.public_key(), now, CA_LIFETIME, "key_cert_sign crl_sign")
    constraints = x509.BasicConstraints(ca=True, path_length=0)
    return basis.add_extension(constraints, critical=True).sign(key, hashes.SHA384())


def issue_server_certificate(
    key: EllipticCurvePrivateKey,
    host: str,
    ca: x509.Certificate,
    ca_key: EllipticCurvePrivateKey,
    now: datetime | None = None,
) -> x509.Certificate:
    """Issue the server's certificate, valid for 397 days from `now`.

    Parameters
    ----------
    key : EllipticCurvePrivateKey
        The server's.
    host : str
        DNS name or IP address that sites connect to. The names of the loopback are added for the
        proxy and for the commands on the server itself.
    ca, ca_key
        The CA that signs.
    now : datetime, optional
    """
    (federation,) = ca.subject.get_attributes_for_oid(NameOID.ORGANIZATION_NAME)
    names = dict.fromkeys((host, "localhost", "127.0.0.1", "::1"))
    identifier = ca.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    issuer = x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(identifier)
    subject = _name(str(federation.value), "MDMT server")
    lifetime = SERVER_LIFETIME
    return (
        _certificate(subject, ca.subject, key.public_key(), now, lifetime, "digital_signature")
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.SubjectAlternativeName([_san(n) for n in names]), critical=False)
        .add_extension(issuer, critical=False)
        .sign(ca_key, hashes.SHA384())
    )


def certificate_pem(certificate: x509.Certificate) -> str:
    """Certificate as PEM text."""
    return certificate.public_bytes(Encoding.PEM).decode()


def check_validity(path: Path, now: datetime | None = None) -> int:
    """Return the days for which a certificate is still valid.

    Raises
    ------
    BadInput
        It has expired, or is not valid yet.
    """
    certificate, now = read_certificate(path), now or datetime.now(UTC)
    begin, end = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    if not begin <= now < end:
        raise BadInput(
            f"{path}: valid only from {begin:%Y-%m-%d} to {end:%Y-%m-%d}, and this machine's clock"
            f" says {now:%Y-%m-%d}: run mdmt provision again as before, which renews it"
        )
    return (end - now).days


def _certificate(
    subject: x509.Name,
    issuer: x509.Name,
    key: EllipticCurvePublicKey,
    now: datetime | None,
    lifetime: timedelta,
    usages: str,
) -> x509.CertificateBuilder:
    now = now or datetime.now(UTC)
    usage = x509.KeyUsage(**{name: name in usages.split() for name in _USAGES})
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - CLOCK_TOLERANCE)
        .not_valid_after(now + lifetime)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
        .add_extension(usage, critical=True)
    )


def _name(federation: str, role: str) -> x509.Name:
    """Subject. A common name has 64 characters at most: the federation has an attribute apart."""
    names = {NameOID.ORGANIZATION_NAME: federation, NameOID.COMMON_NAME: role}
    return x509.Name([x509.NameAttribute(oid, value) for oid, value in names.items()])


def _san(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)
