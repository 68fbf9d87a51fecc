"""Reading the keys and certificates that `mdmt provision` wrote."""

from __future__ import annotations

from pathlib import Path

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key, load_ssh_private_key

from mdmt.errors import BadInput


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
