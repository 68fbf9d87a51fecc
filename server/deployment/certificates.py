"""Keys and certificates of a deployment: a CA, the server's certificate, a key pair per site."""

from __future__ import annotations

import ipaddress
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.ec import (
    SECP384R1,
    EllipticCurvePrivateKey,
    EllipticCurvePublicKey,
    generate_private_key,
)
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
    load_ssh_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from mdmt.errors import BadInput
from mdmt.files import atomic_path

__all__ = [
    "certificate_pem",
    "check_validity",
    "issue_ca",
    "issue_server_certificate",
    "new_key",
    "public_key_line",
    "read_certificate",
    "read_key",
    "write_key",
]

CA_LIFETIME = timedelta(days=3652)
SERVER_LIFETIME = timedelta(days=397)
"""The longest that browsers and many TLS libraries accept."""
CLOCK_TOLERANCE = timedelta(days=1)
"""A site whose clock is behind must not find a new certificate not valid yet."""


def new_key() -> EllipticCurvePrivateKey:
    """Draw an ECDSA P-384 key."""
    return generate_private_key(SECP384R1())


def write_key(key: EllipticCurvePrivateKey, path: Path, *, openssh: bool = False) -> None:
    """Write a private key atomically; nobody else can read it at any moment.

    Parameters
    ----------
    key : EllipticCurvePrivateKey
    path : Path
    openssh : bool
        In OpenSSH's format, which Flower's SuperNode reads, in place of PKCS #8, which servers do.
    """
    private_format = PrivateFormat.OpenSSH if openssh else PrivateFormat.PKCS8
    with atomic_path(path) as temporary:  # which is created with mode 0600 and keeps it
        temporary.write_bytes(key.private_bytes(Encoding.PEM, private_format, NoEncryption()))


def read_key(path: Path, *, openssh: bool = False) -> EllipticCurvePrivateKey:
    """Read what `write_key` wrote.

    Raises
    ------
    BadInput
        The file holds no ECDSA key in that format.
    """
    load = load_ssh_private_key if openssh else load_pem_private_key
    try:
        key = load(path.read_bytes(), None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:  # TypeError: has a password
        raise BadInput(f"{path}: not a private key as mdmt provision writes it") from error
    if not isinstance(key, EllipticCurvePrivateKey):
        raise BadInput(f"{path}: not an ECDSA key")
    return key


def public_key_line(key: EllipticCurvePrivateKey, comment: str) -> str:
    """Public half of a key as one line in OpenSSH's format, which Flower registers."""
    line = key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH)
    return f"{line.decode()} {comment}\n"


def issue_ca(
    key: EllipticCurvePrivateKey, federation: str, now: datetime | None = None
) -> x509.Certificate:
    """Issue the self-signed certificate of a federation's CA, valid for ten years from `now`."""
    name = _name(federation, "MDMT CA")
    return (
        _certificate(name, name, key.public_key(), now, CA_LIFETIME)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(key_cert_sign=True, crl_sign=True), critical=True)
        .sign(key, hashes.SHA384())
    )


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
        DNS name or IP address that sites connect to; the names of the loopback are added, for the
        proxy and the commands on the server itself.
    ca, ca_key
        Who signs.
    now : datetime, optional
    """
    (federation,) = ca.subject.get_attributes_for_oid(NameOID.ORGANIZATION_NAME)
    names = dict.fromkeys((host, "localhost", "127.0.0.1", "::1"))
    identifier = ca.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    issuer = x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(identifier)
    subject = _name(str(federation.value), "MDMT server")
    return (
        _certificate(subject, ca.subject, key.public_key(), now, SERVER_LIFETIME)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(digital_signature=True), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.SubjectAlternativeName([_san(n) for n in names]), critical=False)
        .add_extension(issuer, critical=False)
        .sign(ca_key, hashes.SHA384())
    )


def certificate_pem(certificate: x509.Certificate) -> str:
    """Certificate as PEM text."""
    return certificate.public_bytes(Encoding.PEM).decode()


def read_certificate(path: Path) -> x509.Certificate:
    """Read a PEM certificate.

    Raises
    ------
    BadInput
        The file holds none.
    """
    try:
        return x509.load_pem_x509_certificate(path.read_bytes())
    except ValueError as error:
        raise BadInput(f"{path}: not a certificate in PEM format") from error


def check_validity(path: Path, now: datetime | None = None) -> int:
    """Give the days for which a certificate is still good.

    Raises
    ------
    BadInput
        It has expired, or is of the future.
    """
    certificate, now = read_certificate(path), now or datetime.now(UTC)
    begin, end = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    if not begin <= now < end:
        raise BadInput(
            f"{path}: good from {begin:%Y-%m-%d} to {end:%Y-%m-%d} only, and this machine's clock"
            f" says {now:%Y-%m-%d}: run mdmt provision again as before, which renews it"
        )
    return (end - now).days


def _certificate(
    subject: x509.Name,
    issuer: x509.Name,
    key: EllipticCurvePublicKey,
    now: datetime | None,
    lifetime: timedelta,
) -> x509.CertificateBuilder:
    now = now or datetime.now(UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - CLOCK_TOLERANCE)
        .not_valid_after(now + lifetime)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
    )


def _name(federation: str, role: str) -> x509.Name:
    """Subject; the federation stands first as a common name holds too few characters for both."""
    return x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, federation),
            x509.NameAttribute(NameOID.COMMON_NAME, role),
        ]
    )


def _san(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _usage(**granted: bool) -> x509.KeyUsage:
    usages = (
        "digital_signature",
        "content_commitment",
        "key_encipherment",
        "data_encipherment",
        "key_agreement",
        "key_cert_sign",
        "crl_sign",
        "encipher_only",
        "decipher_only",
    )
    return x509.KeyUsage(**{usage: granted.get(usage, False) for usage in usages})
