"""Whether a site is fit to take part: the line to the server, the machine, the data."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from client.deployment.check.base import Check
from client.deployment.check.data import check_dataset, check_table
from client.deployment.check.kit import check_audit_log, check_ca, check_key, check_site_file
from client.deployment.check.machine import check_device, check_folder, check_versions
from client.deployment.check.server import (
    Answer,
    ask_server,
    check_address,
    check_certificate,
    check_clock,
    check_server,
)
from mdmt.deployment.kits import SiteKit

__all__ = ["Check", "check_site", "check_start"]


def check_site(kit: SiteKit, progress: Callable[[int, int], None] | None = None) -> Iterator[Check]:
    """Yield the outcome of every check, from the network to the data; none stops the others.

    Nothing is sent but a request for the server's health and one that the site's key signs.

    Parameters
    ----------
    kit : SiteKit
    progress : callable, optional
        Called with (done, total) images.
    """
    from client.deployment.check.registered import check_registered
    from mdmt.data.cohort import default_cache_dir

    written, site = check_site_file(kit)
    yield written
    yield check_key(kit)
    yield check_ca(kit)
    yield check_address(kit)
    answer = ask_server(kit)
    yield check_certificate(answer)
    yield check_server(answer)
    yield check_clock(answer)
    yield check_registered(kit, answer)
    yield check_versions(kit.facts.versions)
    if site is None:
        for name in ("device", "state_dir", "audit log", "cache_dir", "dataset"):
            yield Check(name, "fail", "not checked", "correct site.yaml first")
        return
    yield check_device(site)
    yield check_folder("state_dir", site.state_root)
    yield check_audit_log(kit, site)
    yield check_folder("cache_dir", site.cache_dir or default_cache_dir())
    yield check_dataset(site, progress)


def check_start(kit: SiteKit) -> Iterator[Check]:
    """Yield the checks that a site makes at every start: those that take no time and no server.

    Images are not read again, and a server that is away may come later; but a clock that is known
    to be wrong, a missing table, GPU or disk would fail every round.
    """
    from mdmt.data.cohort import default_cache_dir

    written, site = check_site_file(kit)
    yield written
    yield check_key(kit)
    yield check_ca(kit)
    if isinstance(answer := ask_server(kit), Answer):
        yield check_clock(answer)
    if site is None:
        return
    if site.device.startswith("cuda"):  # else there is nothing to miss, and torch is slow to load
        yield check_device(site)
    yield check_folder("state_dir", site.state_root)
    yield check_audit_log(kit, site)
    yield check_folder("cache_dir", site.cache_dir or default_cache_dir())
    yield check_table(site)
