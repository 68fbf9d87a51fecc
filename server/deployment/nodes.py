"""Who may connect: the admitted sites by name and key, as the SuperLink has registered them."""

from __future__ import annotations

import httpx

from mdmt.deployment.kits import ServerKit, check_user
from mdmt.errors import BadInput, RunError
from server.deployment.admission import admitted_key, note_revoked
from server.deployment.control import control
from server.flower import Ask, NodeInfo, public_key_to_bytes, refused_with


def list_nodes(kit: ServerKit) -> list[NodeInfo]:
    """List the registered sites by name; status ``registered`` means never connected."""
    with control(kit) as ask:
        nodes = ask("ListNodes").nodes_info
    known = (node for node in nodes if node.status != "unregistered")
    return sorted(known, key=lambda node: node.name)


def connected_since(node: NodeInfo) -> str:
    """When a site connected, or was last connected; UTC, empty if never."""
    online = node.status == "online"
    moment = node.last_activated_at if online else node.last_deactivated_at
    return str(moment)[:19].replace("T", " ")


def register_sites(kit: ServerKit) -> tuple[list[str], list[str]]:
    """Register the admitted sites with their present keys, and remove all other keys.

    Returns
    -------
    new, former : list of str
        Sites that were registered; sites whose key was removed, because another one was admitted or
        because the site is not admitted any more.

    Raises
    ------
    BadInput
        A file in the kit is not a site's public key.
    RunError
        There is no SuperLink, or a key was revoked before.
    """
    keys = {site: _flower_key(kit, site) for site in kit.admitted}
    nodes = list_nodes(kit)
    former = [node for node in nodes if keys.get(node.name) != node.public_key]
    new = sorted(set(keys) - {node.name for node in nodes if node not in former})
    with control(kit) as ask:
        for node in former:
            ask("UnregisterNode", node_id=node.node_id)
        for site in new:
            _register(ask, site, keys[site])
    return new, [node.name for node in former]


def _flower_key(kit: ServerKit, site: str) -> bytes:
    """Read a site's public key as Flower encodes it."""
    key = admitted_key(kit, site)
    if key is None:
        raise BadInput(f"{kit.public_key(site)}: is gone; run the command again")
    return public_key_to_bytes(key)


def _register(ask: Ask, site: str, key: bytes) -> None:
    try:
        ask("RegisterNode", public_key=key, name=site)
    except httpx.HTTPStatusError as error:
        if not refused_with(error.response, "PUBLIC_KEY_ALREADY_IN_USE"):
            raise
        raise RunError(
            f"{site}: this key was revoked: run mdmt server revoke {site}; the site must delete"
            " site.key and run mdmt site join again"
        ) from error


def revoke_site(kit: ServerKit, site: str) -> None:
    """Refuse a site's key from now on, also in the current run.

    The site can be admitted again, with another key.

    Raises
    ------
    BadInput
        There is no such site.
    RunError
        There is no SuperLink; nothing was changed.
    """
    check_user(kit)
    nodes = [node for node in list_nodes(kit) if node.name == site]
    if not nodes and site not in kit.admitted:
        admitted = ", ".join(kit.admitted) or "none"
        raise BadInput(f"{site}: no such site is admitted; there are: {admitted}")
    note_revoked(kit, site)  # first: a running server must not register the key again
    with control(kit) as ask:
        for node in nodes:
            ask("UnregisterNode", node_id=node.node_id)
