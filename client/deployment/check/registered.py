"""The check that the server knows a site's key."""

from __future__ import annotations

import httpx

from client.deployment.check.base import Failed, check
from client.deployment.check.server import Answer, answered
from client.fleet import activate_node, refusal
from mdmt.deployment.keys import read_key
from mdmt.deployment.kits import SiteKit
from mdmt.errors import BadInput

_IMPOSSIBLE = 0.0
"""Seconds between heartbeats."""
_CAUSES: dict[str | int, tuple[str, str]] = {
    "FLEET_NODE_ACTIVATION_FAILED": (
        "not admitted yet: the server does not know this site's key",
        "send {request} to the coordinator (mdmt site join writes it); if the key was revoked,"
        " delete site.key and run mdmt site join",
    ),
    401: (
        "the server refuses what this site's key signs",
        "set the clock if its line says so; else tell the coordinator",
    ),
    **dict.fromkeys((502, 503, 504), ("not asked: no SuperLink", "see the server's line")),
}
"""Flower's error or the HTTP status → what is wrong, and the remedy."""


@check("registered", "see the private key's line")
def check_registered(kit: SiteKit, answer: Answer | Exception) -> str:
    """Check that the server knows the site's key, without changing anything there.

    A SuperNode presents its key when it is activated. The server looks the key up first and checks
    the heartbeat interval after that. So it refuses an impossible interval as such only if it knows
    the key, whether or not the site is running.
    """
    answered(answer)
    try:
        key, ca = read_key(kit.private_key, openssh=True), kit.ca_certificate.read_bytes()
    except (OSError, BadInput) as error:
        raise Failed("not asked: no key to show") from error
    try:
        activate_node(kit.facts.server, ca, key, _IMPOSSIBLE)
    except httpx.HTTPStatusError as error:
        name, status = refusal(error.response), error.response.status_code
        if name == "FLEET_INVALID_HEARTBEAT_INTERVAL":
            return "the server knows this site's key"
        unknown = f"the server answers {status}", "tell the coordinator"
        found, remedy = _CAUSES.get(name, _CAUSES.get(status, unknown))
        raise Failed(found, remedy.format(request=kit.request_file.name)) from error
    except httpx.HTTPError as error:
        raise Failed(f"not asked: {error}", "try again") from error
    raise Failed("the server takes any heartbeat", "see the versions' line")
