"""Shutting a site out: its key is taken off the SuperLink, its name off the kit."""

from __future__ import annotations

from mdmt.deployment.kits import KIT_FILE, ServerKit, check_user
from mdmt.errors import BadInput
from mdmt.files import write_json
from server.deployment.nodes import unregister_site

__all__ = ["revoke_site"]


def revoke_site(kit: ServerKit, site: str) -> None:
    """Refuse a site's key from now on, in a run that is under way too.

    Parameters
    ----------
    kit : ServerKit
    site : str
        Its name, which may be provisioned again, with another key.

    Raises
    ------
    BadInput
        There is no such site.
    RunError
        There is no SuperLink; nothing was changed.
    """
    check_user(kit)
    registered = unregister_site(kit, site)
    if not registered and site not in kit.facts.sites:
        raise BadInput(f"{site}: no such site; there are: {', '.join(kit.facts.sites) or 'none'}")
    left = tuple(name for name in kit.facts.sites if name != site)
    facts = kit.facts.model_copy(update={"sites": left})
    write_json(kit.folder / KIT_FILE, facts.model_dump(mode="json"))
    kit.public_key(site).unlink(missing_ok=True)
