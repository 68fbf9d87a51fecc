"""The check that the server knows a site's key."""

from __future__ import annotations

import httpx
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
from cryptography.hazmat.primitives.serialization import load_ssh_private_key

from client.deployment.check.base import Check
from client.deployment.check.server import Answer, NoAnswer
from client.flower import activate_node, refused_with
from mdmt.deployment.kits import SiteKit

__all__ = ["check_registered"]

_NAME = "registered"
_IMPOSSIBLE = 0.0
"""Seconds between heartbeats."""


def check_registered(kit: SiteKit, answer: Answer | NoAnswer) -> Check:
    """Check that the server knows the site's key, without changing anything there.

    A SuperNode shows its key when it is activated. The server looks the key up first and at the
    heartbeat interval second: an impossible interval is refused as such only if the key is known,
    whether or not the site is running.
    """
    if isinstance(answer, NoAnswer):
        return Check(_NAME, "fail", "not asked: no answer", "see the certificate's line")
    try:
        key = load_ssh_private_key(kit.private_key.read_bytes(), None)
    except (OSError, ValueError, TypeError, UnsupportedAlgorithm):
        key = None
    if not isinstance(key, EllipticCurvePrivateKey):
        return Check(_NAME, "fail", "not asked: no key to show", "see the private key's line")
    try:
        ca = kit.ca_certificate.read_bytes()
        activate_node(kit.facts.server, ca, key, _IMPOSSIBLE)
    except httpx.HTTPStatusError as error:
        return _judge(error.response)
    except httpx.HTTPError as error:
        return Check(_NAME, "fail", f"not asked: {error}", "try again")
    return Check(_NAME, "fail", "the server takes any heartbeat", "see the versions' line")


def _judge(response: httpx.Response) -> Check:
    status = response.status_code
    if refused_with(response, "FLEET_INVALID_HEARTBEAT_INTERVAL"):
        return Check(_NAME, "pass", "the server knows this site's key")
    if refused_with(response, "FLEET_NODE_ACTIVATION_FAILED"):
        found = "the server does not know this site's key"
        return Check(_NAME, "fail", found, "ask the coordinator to register it, or for a new kit")
    if status == httpx.codes.UNAUTHORIZED:
        found = "the server refuses what this site's key signs"
        return Check(
            _NAME, "fail", found, "set the clock if its line says so; else ask for a new kit"
        )
    if status in (502, 503, 504):
        return Check(_NAME, "fail", "not asked: no SuperLink", "see the server's line")
    return Check(_NAME, "fail", f"the server answers {status}", "tell the coordinator")
