"""Who may connect: the sites of the kit, by name and key, as the SuperLink has registered them."""

from __future__ import annotations

from dataclasses import dataclass

import httpx
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
from cryptography.hazmat.primitives.serialization import load_ssh_public_key

from mdmt.deployment.kits import ServerKit
from mdmt.errors import BadInput, RunError
from server.deployment.control import control
from server.flower import (
    ControlHttpClient,
    ListNodesRequest,
    RegisterNodeRequest,
    UnregisterNodeRequest,
    public_key_to_bytes,
    refused_with,
)

__all__ = ["Node", "list_nodes", "register_sites", "unregister_site"]


@dataclass(frozen=True)
class Node:
    """A registered site as the SuperLink sees it.

    Attributes
    ----------
    name : str
    status : {"registered", "online", "offline"}
        ``registered`` has never been connected.
    since : str
        When it connected, or was last connected; ISO 8601, UTC, empty if never.
    id : int
        Flower's.
    """

    name: str
    status: str
    since: str
    id: int


def register_sites(kit: ServerKit) -> tuple[list[str], list[str]]:
    """Let in the sites of the kit, by name and with the keys it holds now, and nobody else.

    Returns
    -------
    new, former : list of str
        Who was let in, and whose key was shut out: an earlier one of ``provision --force``, or one
        of a site that the kit does not name.

    Raises
    ------
    BadInput
        A site's public key is not in the kit.
    RunError
        There is no SuperLink, or a key was revoked before.
    """
    keys = {site: _public_key(kit, site) for site in kit.facts.sites}
    with control(kit) as client:
        nodes = [
            node
            for node in client.ListNodes(ListNodesRequest()).nodes_info
            if node.status != "unregistered"
        ]
        former = [node for node in nodes if keys.get(node.name) != node.public_key]
        for node in former:
            client.UnregisterNode(UnregisterNodeRequest(node_id=node.node_id))
        new = sorted(set(keys) - {node.name for node in nodes if node not in former})
        for site in new:
            _register(client, kit, site, keys[site])
    return new, sorted(node.name for node in former)


def _public_key(kit: ServerKit, site: str) -> bytes:
    """Read a site's public key as Flower keeps it."""
    file = kit.public_key(site)
    try:
        key = load_ssh_public_key(file.read_bytes())
        assert isinstance(key, EllipticCurvePublicKey), "mdmt provision wrote it"
    except (OSError, ValueError, AssertionError, UnsupportedAlgorithm) as error:
        raise BadInput(f"{file}: not a site's public key; run mdmt provision again") from error
    return public_key_to_bytes(key)


def _register(client: ControlHttpClient, kit: ServerKit, site: str, key: bytes) -> None:
    try:
        client.RegisterNode(RegisterNodeRequest(public_key=key, name=site))
    except httpx.HTTPStatusError as error:
        if not refused_with(error.response, "PUBLIC_KEY_ALREADY_IN_USE"):
            raise
        raise RunError(
            f"{site}: this key was revoked; delete {kit.public_key(site)} and the site's folder,"
            " and run mdmt provision again"
        ) from error


def unregister_site(kit: ServerKit, site: str) -> bool:
    """Shut a site out for good, at once; give whether it was registered."""
    found = [node.id for node in list_nodes(kit) if node.name == site]
    with control(kit) as client:
        for node in found:
            client.UnregisterNode(UnregisterNodeRequest(node_id=node))
    return bool(found)


def list_nodes(kit: ServerKit) -> list[Node]:
    """Give the registered sites, by name."""
    with control(kit) as client:
        nodes = client.ListNodes(ListNodesRequest()).nodes_info
    return sorted(
        (
            Node(
                node.name,
                node.status,
                node.last_activated_at if node.status == "online" else node.last_deactivated_at,
                node.node_id,
            )
            for node in nodes
            if node.status != "unregistered"
        ),
        key=lambda node: node.name,
    )
