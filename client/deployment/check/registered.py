"""The check that the server knows a site's key."""

from __future__ import annotations

import httpx

from client.deployment.check.base import Check
from client.deployment.check.kit import read_private_key
from client.deployment.check.server import Answer
from client.flower import activate_node, refused_with
from mdmt.deployment.kits import SiteKit

__all__ = ["check_registered"]

_IMPOSSIBLE = 0.0
"""Seconds between heartbeats."""


def check_registered(kit: SiteKit, answer: Answer | Exception) -> Check:
    """Check that the server knows the site's key, without changing anything there.

    A SuperNode presents its key when it is activated. The server looks the key up first and checks
    the heartbeat interval after that. So it refuses an impossible interval as such only if it knows
    the key, whether or not the site is running.
    """
    if isinstance(answer, Exception):
        return _failed("not asked: no answer", "see the certificate's line")
    try:
        key, ca = read_private_key(kit), kit.ca_certificate.read_bytes()
    except (OSError, ValueError):
        return _failed("not asked: no key to show", "see the private key's line")
    try:
        activate_node(kit.facts.server, ca, key, _IMPOSSIBLE)
    except httpx.HTTPStatusError as error:
        return _judge(error.response)
    except httpx.HTTPError as error:
        return _failed(f"not asked: {error}", "try again")
    return _failed("the server takes any heartbeat", "see the versions' line")


def _judge(response: httpx.Response) -> Check:
    status = response.status_code
    if refused_with(response, "FLEET_INVALID_HEARTBEAT_INTERVAL"):
        return Check("registered", "pass", "the server knows this site's key")
    if refused_with(response, "FLEET_NODE_ACTIVATION_FAILED"):
        remedy = "ask the coordinator to register it, or for a new kit"
        return _failed("the server does not know this site's key", remedy)
    if status == httpx.codes.UNAUTHORIZED:
        remedy = "set the clock if its line says so; else ask for a new kit"
        return _failed("the server refuses what this site's key signs", remedy)
    if status in (502, 503, 504):
        return _failed("not asked: no SuperLink", "see the server's line")
    return _failed(f"the server answers {status}", "tell the coordinator")


def _failed(found: str, remedy: str) -> Check:
    return Check("registered", "fail", found, remedy)
