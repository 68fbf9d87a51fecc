"""Whether a site is ready to take part: the way to the server, the machine, the data."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from client.deployment.check.base import Check
from client.deployment.check.kit import (
    check_approval,
    check_audit_log,
    check_ca,
    check_dataset,
    check_key,
    check_privacy_account,
    check_site_file,
    check_table,
)
from client.deployment.check.machine import check_device, check_folder, check_versions
from client.deployment.check.server import (
    ask_server,
    check_address,
    check_certificate,
    check_clock,
    check_server,
)
from mdmt.deployment.kits import SiteKit
from mdmt.privacy.ledger import open_ledger

__all__ = ["Check", "check_site"]


def check_site(
    kit: SiteKit,
    progress: Callable[[int, int], None] | None = None,
    *,
    starting: bool = False,
) -> Iterator[Check]:
    """Yield the result of every check, from the network to the data; all are made.

    The site sends nothing but a request for the server's health and one that its key signs.

    Parameters
    ----------
    kit : SiteKit
    progress : callable, optional
        Called with (done, total) images.
    starting : bool
        Make only the checks of a start, which take no time and need no server. Images are not read
        and the server may come later. But a clock that is known to be wrong, another version of
        the messages, a missing table, GPU or disk would fail every round.
    """
    from mdmt.data.cache import default_cache_dir

    written, site = check_site_file(kit)
    yield from (written, check_key(kit), check_ca(kit))
    if not starting:
        yield check_address(kit)
    answer = ask_server(kit)
    if not starting:
        yield from (check_certificate(answer), check_server(answer))
    if not starting or not isinstance(answer, Exception):
        yield check_clock(answer)
    if not starting:
        from client.deployment.check.registered import check_registered

        yield check_registered(kit, answer)
    yield check_versions(kit.facts.versions)
    if site is None:
        skipped = ("device", "state_dir", "approval", "audit log", "cache_dir", "dataset")
        for name in () if starting else skipped:
            yield Check(name, "fail", "not checked", "correct site.yaml first")
        return
    if not starting or site.device.startswith("cuda"):  # torch is slow to load
        yield check_device(site)
    yield check_folder("state_dir", site.state_root)
    yield check_approval(site)
    yield check_audit_log(kit, site)
    if site.policy.max_epsilon is not None or open_ledger(site).path.exists():
        yield check_privacy_account(site)
    yield check_folder("cache_dir", site.cache_dir or default_cache_dir())
    yield check_table(site) if starting else check_dataset(site, progress)
