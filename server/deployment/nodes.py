"""Who may connect: the kit's sites by name and key, as the SuperLink has registered them."""

from __future__ import annotations

import httpx
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
from cryptography.hazmat.primitives.serialization import load_ssh_public_key

from mdmt.deployment.kits import KIT_FILE, ServerKit, check_user
from mdmt.errors import BadInput, RunError
from mdmt.files import write_json
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
    """Register the kit's sites with their present keys, and remove all other keys.

    Returns
    -------
    new, former : list of str
        Sites that were registered; sites whose key was removed, because ``provision --force`` made
        another one or because the kit does not name the site.

    Raises
    ------
    BadInput
        A site's public key is not in the kit.
    RunError
        There is no SuperLink, or a key was revoked before.
    """
    keys = {site: _public_key(kit, site) for site in kit.facts.sites}
    nodes = list_nodes(kit)
    former = [node for node in nodes if keys.get(node.name) != node.public_key]
    new = sorted(set(keys) - {node.name for node in nodes if node not in former})
    with control(kit) as ask:
        for node in former:
            ask("UnregisterNode", node_id=node.node_id)
        for site in new:
            _register(ask, kit, site, keys[site])
    return new, [node.name for node in former]


def _public_key(kit: ServerKit, site: str) -> bytes:
    """Read a site's public key as Flower encodes it."""
    file = kit.public_key(site)
    try:
        key = load_ssh_public_key(file.read_bytes())
        assert isinstance(key, EllipticCurvePublicKey), "mdmt provision wrote it"
    except (OSError, ValueError, AssertionError, UnsupportedAlgorithm) as error:
        raise BadInput(f"{file}: not a site's public key; run mdmt provision again") from error
    return public_key_to_bytes(key)


def _register(ask: Ask, kit: ServerKit, site: str, key: bytes) -> None:
    try:
        ask("RegisterNode", public_key=key, name=site)
    except httpx.HTTPStatusError as error:
        if not refused_with(error.response, "PUBLIC_KEY_ALREADY_IN_USE"):
            raise
        raise RunError(
            f"{site}: this key was revoked; delete {kit.public_key(site)} and the site's"
            " folder, and run mdmt provision again"
        ) from error


def revoke_site(kit: ServerKit, site: str) -> None:
    """Refuse a site's key from now on, also in the current run.

    The site can be provisioned again, with another key.

    Raises
    ------
    BadInput
        There is no such site.
    RunError
        There is no SuperLink; nothing was changed.
    """
    check_user(kit)
    nodes = [node for node in list_nodes(kit) if node.name == site]
    if not nodes and site not in kit.facts.sites:
        raise BadInput(f"{site}: no such site; there are: {', '.join(kit.facts.sites) or 'none'}")
    with control(kit) as ask:
        for node in nodes:
            ask("UnregisterNode", node_id=node.node_id)
    remaining = tuple(name for name in kit.facts.sites if name != site)
    facts = kit.facts.model_copy(update={"sites": remaining})
    write_json(kit.folder / KIT_FILE, facts.model_dump(mode="json"))
    kit.public_key(site).unlink(missing_ok=True)
