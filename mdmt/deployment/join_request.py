"""The request of a site to be admitted: its public key, with a proof that it has the private one.

The hospital makes the key and sends this file, which holds no secret. The signature shows that the
request was not changed on the way, but not who made it: two people compare the fingerprint.
"""

from __future__ import annotations

import base64
import binascii
from pathlib import Path
from typing import Annotated, Literal

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ec import (
    ECDSA,
    EllipticCurvePrivateKey,
    EllipticCurvePublicKey,
)
from cryptography.hazmat.primitives.hashes import SHA384
from pydantic import Field, ValidationError

from mdmt.deployment.keys import parse_public_key, public_key_line
from mdmt.errors import BadInput
from mdmt.strict import Name, Strict

_LONGEST = 4096
"""Bytes of a request; one has about 500."""
Line = Annotated[str, Field(max_length=1024)]


class JoinRequest(Strict):
    """What ``NAME.request`` holds, as JSON."""

    format: Literal[1] = 1
    federation: Name
    name: Name
    """The site's name in the kit."""
    key: Line
    """The public key in OpenSSH's format."""
    signature: Line
    """Of `_signed`, by the private key: ECDSA with SHA-384, DER in base64."""

    @property
    def public_key(self) -> EllipticCurvePublicKey:
        """The key; `read_request` has checked it."""
        return parse_public_key(self.key)


def make_request(federation: str, name: str, key: EllipticCurvePrivateKey) -> JoinRequest:
    """Make the request of a site with this key."""
    line = public_key_line(key.public_key())
    signature = key.sign(_signed(federation, name, line), ECDSA(SHA384()))
    return JoinRequest(
        federation=federation,
        name=name,
        key=line,
        signature=base64.b64encode(signature).decode(),
    )


def read_request(file: Path) -> JoinRequest:
    """Read a request and check its key and its signature.

    Raises
    ------
    BadInput
        The file is no request, was changed, or has a key of another kind than ECDSA P-384.
    """
    try:
        with file.open("rb") as stream:
            text = stream.read(_LONGEST + 1)
        if len(text) > _LONGEST:
            raise ValueError
        request = JoinRequest.model_validate_json(text)
    except OSError as error:
        raise BadInput(f"{file}: cannot be read: {error.strerror}") from error
    except (ValidationError, ValueError) as error:
        raise BadInput(
            f"{file}: not the request of a site: give the file NAME.request that mdmt site join"
            " wrote"
        ) from error
    try:
        key = parse_public_key(request.key)
    except ValueError as error:
        raise BadInput(f"{file}: the key is not an ECDSA P-384 key: ask for another") from error
    signed = _signed(request.federation, request.name, request.key)
    try:
        key.verify(base64.b64decode(request.signature, validate=True), signed, ECDSA(SHA384()))
    except (InvalidSignature, binascii.Error) as error:
        raise BadInput(
            f"{file}: the signature does not fit: the request was changed or is damaged; ask the"
            " site to send it again"
        ) from error
    return request


def _signed(federation: str, name: str, key: str) -> bytes:
    """What is signed. The first line separates it from everything else that the key signs."""
    return "\n".join(("mdmt join request 1", federation, name, key)).encode()
