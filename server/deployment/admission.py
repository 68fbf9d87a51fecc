"""What `mdmt server admit` does: it checks the request of a site and stores the site's key."""

from __future__ import annotations

from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey

from mdmt.deployment.join_request import JoinRequest, read_request
from mdmt.deployment.keys import fingerprint, parse_public_key, public_key_line
from mdmt.deployment.kits import ServerKit, check_user
from mdmt.errors import BadInput
from mdmt.files import write_text


def open_request(kit: ServerKit, file: Path) -> tuple[JoinRequest, bool]:
    """Read a request that the kit can admit.

    Returns
    -------
    JoinRequest
    bool
        True if this key is admitted already.

    Raises
    ------
    BadInput
        The request is invalid, of another federation, of a name that was not provisioned, or its
        key was revoked; or the site is admitted with another key.
    """
    check_user(kit)
    request = read_request(file)
    if request.federation != kit.facts.federation:
        raise BadInput(
            f"{file}: a request for the federation {request.federation}, not {kit.facts.federation}"
        )
    if request.name not in kit.facts.sites:
        raise BadInput(
            f"{file}: {request.name} is not a site of this kit: add it with mdmt provision ..."
            f" --site {request.name}"
        )
    _refuse_used_key(kit, request, file)
    present = admitted_key(kit, request.name)
    if present is None:
        return request, False
    if fingerprint(present) != fingerprint(request.public_key):
        raise BadInput(
            f"{file}: {request.name} is admitted with another key, {fingerprint(present)}: if that"
            f" key is lost, or others have it, run mdmt server revoke {request.name} first"
        )
    return request, True


def admit_site(kit: ServerKit, request: JoinRequest) -> None:
    """Store the key of a request; a running server registers it within half a minute."""
    line = public_key_line(request.public_key, request.name)
    write_text(kit.public_key(request.name), f"{line}\n")


def admitted_key(kit: ServerKit, site: str) -> EllipticCurvePublicKey | None:
    """Return the key with which a site is admitted; None if it is not.

    Raises
    ------
    BadInput
        The file holds no key.
    """
    file = kit.public_key(site)
    if not file.exists():
        return None
    try:
        return parse_public_key(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise BadInput(
            f"{file}: not a site's public key: delete it and run mdmt server admit again"
        ) from error


def revoked_keys(kit: ServerKit) -> set[str]:
    """Return the fingerprints of all keys that were revoked."""
    if not kit.revoked_keys.exists():
        return set()
    lines = kit.revoked_keys.read_text(encoding="utf-8").splitlines()
    return {fingerprint(parse_public_key(line)) for line in lines}


def note_revoked(kit: ServerKit, site: str) -> None:
    """Move the key of a site to the revoked ones: it is never admitted again."""
    key = admitted_key(kit, site)
    if key is None:
        return
    former = kit.revoked_keys.read_text(encoding="utf-8") if kit.revoked_keys.exists() else ""
    write_text(kit.revoked_keys, f"{former}{public_key_line(key, site)}\n")
    kit.public_key(site).unlink()


def _refuse_used_key(kit: ServerKit, request: JoinRequest, file: Path) -> None:
    """Refuse a key that was revoked, or that another site has."""
    asked = fingerprint(request.public_key)
    if asked in revoked_keys(kit):
        raise BadInput(
            f"{file}: the key {asked} was revoked: the site must delete site.key and run mdmt site"
            " join again"
        )
    for other in kit.facts.sites:
        key = admitted_key(kit, other) if other != request.name else None
        if key is not None and fingerprint(key) == asked:
            raise BadInput(f"{file}: {other} has this key: each site needs its own")
