"""Key statements: what each site signs once per run with secure aggregation."""

from __future__ import annotations

import json

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ec import ECDSA, EllipticCurvePrivateKey
from cryptography.hazmat.primitives.asymmetric.utils import (
    decode_dss_signature,
    encode_dss_signature,
)
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PublicKey
from cryptography.hazmat.primitives.hashes import SHA256

from mdmt.deployment.keys import fingerprint, parse_public_key, public_key_line
from mdmt.messages import KeyStatement

_BYTES = 48
"""Length of each of the two numbers of a signature on the curve P-384."""
_PURPOSE = b"mdmt secure aggregation, key of a run\n"
"""Before the signed text, so that no signature for another purpose is valid."""


def sign_statement(
    signer: EllipticCurvePrivateKey,
    key: X25519PublicKey,
    *,
    name: str,
    recipe: str,
    run: str,
    counts: dict[str, int | None],
) -> KeyStatement:
    """Sign the key of a site for one run, and the counts that decide its weight.

    Parameters
    ----------
    signer : EllipticCurvePrivateKey
        The key of the site.
    key : X25519PublicKey
        The key of the run.
    name : str
        The site.
    recipe : str
        SHA-256 of the recipe.
    run : str
    counts : dict of str to int or None
        n_{s,t} by task; None if withheld.
    """
    unsigned = KeyStatement(
        name=name,
        recipe=recipe,
        run=run,
        counts=counts,
        key=key.public_bytes_raw().hex(),
        signer=public_key_line(signer.public_key()),
        signature="0" * 4 * _BYTES,
    )
    pair = decode_dss_signature(signer.sign(_signed_text(unsigned), ECDSA(SHA256())))
    signature = "".join(number.to_bytes(_BYTES).hex() for number in pair)
    return unsigned.model_copy(update={"signature": signature})


def signer_of(statement: KeyStatement) -> str:
    """Return the fingerprint of the key that signed a statement.

    Raises
    ------
    ValueError
        The signature is not valid. The text is the end of a sentence about the site.
    """
    try:
        signer = parse_public_key(statement.signer)
        digits, middle = statement.signature, 2 * _BYTES
        signature = encode_dss_signature(int(digits[:middle], 16), int(digits[middle:], 16))
        signer.verify(signature, _signed_text(statement), ECDSA(SHA256()))
    except (InvalidSignature, ValueError) as error:
        raise ValueError("has no valid signature") from error
    return fingerprint(signer)


def _signed_text(statement: KeyStatement) -> bytes:
    signed = statement.model_dump(mode="json", exclude={"signature"})
    return _PURPOSE + json.dumps(signed, sort_keys=True).encode()
