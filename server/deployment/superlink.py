"""What `mdmt server start` runs: Flower's SuperLink on the loopback, and nginx in front of it."""

from __future__ import annotations

import logging
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager

from mdmt.deployment.kits import ServerKit, open_server_kit, split_address
from mdmt.deployment.processes import Service, flower_environment
from mdmt.errors import BadInput, RunError
from mdmt.files import limit_log
from server.deployment.certificates import check_validity
from server.deployment.control import healthy
from server.deployment.nodes import register_sites
from server.deployment.proxy import (
    end_orphans,
    listening_addresses,
    proxy_service,
    write_proxy_config,
)

log = logging.getLogger(__name__)

_PAUSE = 0.5
_START_TIMEOUT = 120.0
"""Seconds that a SuperLink may take to become healthy."""
_CHECK = 15.0
"""Seconds between two checks of its health."""
_FAILED_CHECKS = 4
"""After so many failed checks in a row a running SuperLink is restarted."""


def serve_federation(kit: ServerKit) -> None:
    """Run the SuperLink and its proxy, and register the kit's sites, until interrupted.

    Raises
    ------
    BadInput
        nginx is not installed, or the certificate has expired.
    RunError
        A port is taken, or the SuperLink does not start.
    """
    check_validity(kit.certificate)
    end_orphans(kit)
    _check_ports(kit)
    write_proxy_config(kit)
    with _services(kit) as (superlink, proxy):
        _wait_until_healthy(kit, superlink)
        _register(kit)
        proxy.tend()
        log.info("sites can connect to %s", kit.facts.server)
        failed, next_check = 0, time.monotonic() + _CHECK
        while True:
            time.sleep(_PAUSE)
            superlink.tend()
            proxy.tend()
            if time.monotonic() < next_check:
                continue
            next_check = time.monotonic() + _CHECK
            limit_log(kit.run_folder / "refused.log")
            if healthy(kit):
                failed = 0
                _register_new_sites(kit)
                continue
            failed += 1
            if failed >= _FAILED_CHECKS and superlink.pid is not None:
                log.error("the SuperLink does not answer and is restarted")
                superlink.stop()
                failed = 0


def reachable(kit: ServerKit) -> bool:
    """Whether the proxy accepts connections; it is started after the sites are registered."""
    address, port = listening_addresses(kit)[0], split_address(kit.facts.server)[1]
    try:
        socket.create_connection((address, port), 5.0).close()
    except OSError:
        return False
    return True


def _register(kit: ServerKit) -> None:
    new, former = register_sites(kit)
    for site in former:
        log.warning("%s: its former key is refused from now on", site)
    for site in new:
        log.info("%s is registered", site)


def _register_new_sites(kit: ServerKit) -> None:
    """Register the sites that were admitted since the last time."""
    try:
        _register(open_server_kit(kit.folder))
    except (BadInput, RunError) as error:  # the server continues and tries again
        log.error("the sites cannot be registered: %s", error)


@contextmanager
def _services(kit: ServerKit) -> Iterator[tuple[Service, Service]]:
    """The SuperLink and the proxy, not started yet; both are stopped when the block ends."""
    superlink = [
        "flower-superlink",
        *("--host", "127.0.0.1", "--port", str(kit.facts.superlink_port)),
        *("--ssl-ca-certfile", str(kit.ca_certificate)),
        *("--ssl-certfile", str(kit.certificate), "--ssl-keyfile", str(kit.private_key)),
        "--enable-supernode-auth",
        *("--database", str(kit.database)),
        *("--health-server-address", f"127.0.0.1:{kit.facts.health_port}"),
        "--disable-runtime-dependency-installation",
    ]
    environment, log_file = flower_environment(kit.flwr_home), kit.run_folder / "superlink.log"
    services = Service("SuperLink", lambda: superlink, environment, log_file), proxy_service(kit)
    try:
        yield services
    finally:
        for service in reversed(services):
            service.stop()
        end_orphans(kit)  # of a proxy that had to be killed


def _check_ports(kit: ServerKit) -> None:
    """Report a port that is taken now: a service would fail at every restart."""
    port, loopback = split_address(kit.facts.server)[1], "127.0.0.1"
    addresses = [(address, port) for address in listening_addresses(kit)]
    addresses += [(loopback, kit.facts.superlink_port), (loopback, kit.facts.health_port)]
    for address in addresses:
        family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
        with socket.socket(family) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as servers do
            if family == socket.AF_INET6:  # as nginx does
                probe.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            try:
                probe.bind(address)
            except OSError as error:
                raise RunError(
                    f"port {address[1]} cannot be opened: {error.strerror} ({address[0]}); ss -ltnp"
                    " shows which process uses it"
                ) from error


def _wait_until_healthy(kit: ServerKit, superlink: Service) -> None:
    deadline = time.monotonic() + _START_TIMEOUT
    while not healthy(kit):
        if time.monotonic() > deadline:
            raise RunError(f"the SuperLink did not start; see {kit.run_folder / 'superlink.log'}")
        superlink.tend()
        time.sleep(_PAUSE)
