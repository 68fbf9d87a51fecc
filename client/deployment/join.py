"""What `mdmt site join` does: it makes the site's key, and the request to be admitted."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from mdmt.deployment.join_request import make_request, read_request
from mdmt.deployment.keys import fingerprint, new_key, public_key_line, read_key, write_key
from mdmt.deployment.kits import SiteKit
from mdmt.errors import BadInput
from mdmt.files import write_text


class Joining(NamedTuple):
    """The key of a site and its request."""

    request: Path
    """The file to send to the coordinator. It holds no secret."""
    fingerprint: str
    """Of the site's key, as ``ssh-keygen -lf`` prints it."""


def join_site(kit: SiteKit) -> Joining:
    """Make the site's key if there is none, and the request for this key.

    A second call changes nothing. The private key never leaves the kit.

    Raises
    ------
    BadInput
        ``site.key`` is not a private key.
    """
    if not kit.private_key.exists():
        write_key(new_key(), kit.private_key, openssh=True)
    key = read_key(kit.private_key, openssh=True)
    if not _is_current(kit, public_key_line(key.public_key())):
        request = make_request(kit.facts.federation, kit.facts.name, key)
        write_text(kit.request_file, request.model_dump_json(indent=1) + "\n")
    return Joining(kit.request_file, fingerprint(key.public_key()))


def _is_current(kit: SiteKit, key: str) -> bool:
    """Return True if the request in the kit is a valid one of this site and this key."""
    try:
        found = read_request(kit.request_file)
    except BadInput:
        return False
    return (found.federation, found.name, found.key) == (kit.facts.federation, kit.facts.name, key)
