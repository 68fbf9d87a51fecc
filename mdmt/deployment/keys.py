"""The keys of a deployment: drawing, writing and reading them, and reading certificates."""

from __future__ import annotations

import base64
import hashlib
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
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
    load_ssh_public_key,
)

from mdmt.errors import BadInput
from mdmt.files import atomic_path


def new_key() -> EllipticCurvePrivateKey:
    """Draw an ECDSA P-384 key."""
    return generate_private_key(SECP384R1())


def write_key(key: EllipticCurvePrivateKey, path: Path, *, openssh: bool = False) -> None:
    """Write a private key atomically; no other user can read it at any moment.

    Parameters
    ----------
    key : EllipticCurvePrivateKey
    path : Path
    openssh : bool
        Use OpenSSH's format, which Flower's SuperNode reads, instead of PKCS #8.
    """
    private_format = PrivateFormat.OpenSSH if openssh else PrivateFormat.PKCS8
    with atomic_path(path) as temporary:  # created with mode 0600, which it keeps
        temporary.write_bytes(key.private_bytes(Encoding.PEM, private_format, NoEncryption()))


def read_key(path: Path, *, openssh: bool = False) -> EllipticCurvePrivateKey:
    """Read an ECDSA key without a password, in PKCS #8 or in OpenSSH's format.

    Raises
    ------
    BadInput
        The file contains no ECDSA key in this format.
    """
    load, name = (load_ssh_private_key, "OpenSSH") if openssh else (load_pem_private_key, "PEM")
    try:
        key = load(path.read_bytes(), None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:  # TypeError: has a password
        raise BadInput(f"{path}: not a private key in {name} format") from error
    if not isinstance(key, EllipticCurvePrivateKey):
        raise BadInput(f"{path}: not an ECDSA key")
    return key


def public_key_line(key: EllipticCurvePublicKey, comment: str = "") -> str:
    """Return a public key as one line in OpenSSH's format, without a line break."""
    line = key.public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode()
    return f"{line} {comment}".rstrip()


def parse_public_key(line: str) -> EllipticCurvePublicKey:
    """Read what `public_key_line` wrote.

    Raises
    ------
    ValueError
        The line holds no public key on the curve P-384.
    """
    try:
        key = load_ssh_public_key(line.encode())
    except UnsupportedAlgorithm as error:
        raise ValueError(str(error)) from error
    if not isinstance(key, EllipticCurvePublicKey) or key.curve.name != SECP384R1.name:
        raise ValueError("not an ECDSA P-384 key")
    return key


def fingerprint(key: EllipticCurvePublicKey) -> str:
    """Return the fingerprint that people compare, as ``ssh-keygen -lf`` prints it.

    Returns
    -------
    str
        ``SHA256:`` and the SHA-256 of the key in OpenSSH's encoding (RFC 4253, section 6.6), in
        base64 without padding: 43 characters.
    """
    blob = base64.b64decode(public_key_line(key).split()[1])
    digest = base64.b64encode(hashlib.sha256(blob).digest()).decode()
    return f"SHA256:{digest.rstrip('=')}"


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
