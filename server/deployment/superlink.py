"""What `mdmt server start` runs: Flower's SuperLink on the loopback, and nginx in front of it."""

from __future__ import annotations

import logging
import shutil
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager

from mdmt.deployment.kits import ServerKit, open_server_kit, split_address
from mdmt.deployment.processes import Service, flower_environment
from mdmt.errors import BadInput, RunError
from server.deployment.certificates import check_validity
from server.deployment.control import healthy
from server.deployment.kit_files import write_proxy_config
from server.deployment.nodes import register_sites

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
    try:
        socket.create_connection(("127.0.0.1", split_address(kit.facts.server)[1]), 5.0).close()
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
    proxy = [_nginx(), "-p", str(kit.folder), "-c", str(kit.proxy_file), "-e", "stderr"]
    environment, logs = flower_environment(kit.flwr_home), kit.run_folder
    services = (
        Service("SuperLink", lambda: superlink, environment, logs / "superlink.log"),
        Service("proxy", lambda: proxy, environment, logs / "nginx.log"),
    )
    try:
        yield services
    finally:
        for service in reversed(services):
            service.stop()


def _check_ports(kit: ServerKit) -> None:
    """Report a port that is taken now: a service would fail at every restart."""
    loopback = [kit.facts.superlink_port, kit.facts.health_port]
    addresses = [("", split_address(kit.facts.server)[1]), *(("127.0.0.1", p) for p in loopback)]
    for address in addresses:
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as servers do
            try:
                probe.bind(address)
            except OSError as error:
                raise RunError(
                    f"port {address[1]} cannot be opened: {error.strerror}; ss -ltnp shows which"
                    " process uses it"
                ) from error


def _nginx() -> str:
    """Find nginx; Debian keeps it out of an ordinary user's PATH."""
    found = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin:/usr/local/sbin")
    if found is None:
        raise BadInput("nginx is not installed; install it, on Debian: apt install nginx-light")
    return found


def _wait_until_healthy(kit: ServerKit, superlink: Service) -> None:
    deadline = time.monotonic() + _START_TIMEOUT
    while not healthy(kit):
        if time.monotonic() > deadline:
            raise RunError(f"the SuperLink did not start; see {kit.run_folder / 'superlink.log'}")
        superlink.tend()
        time.sleep(_PAUSE)
