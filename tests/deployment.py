"""A server's kit at work on the loopback, for tests: free ports, a stand-in for the SuperLink."""

from __future__ import annotations

import shutil
import socket
import ssl
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import ClassVar

import pytest

from client.deployment.join import join_site
from mdmt.config import find_config, load_federation
from mdmt.deployment.kits import ServerKit, open_server_kit, open_site_kit, split_address
from server.deployment.admission import admit_site, open_request
from server.deployment.provision import provision


def free_ports(count: int = 3) -> int:
    """The first of `count` ports in a row that nobody listens on."""
    for first in range(20000, 30000, 7):
        with suppress(OSError):
            for port in range(first, first + count):
                with socket.socket() as probe:
                    probe.bind(("127.0.0.1", port))
            return first
    raise RuntimeError("no free ports")


def make_kits(
    folder: Path,
    *sites: str,
    host: str = "localhost",
    port: int = 0,
    bind: str | None = None,
) -> ServerKit:
    """Kits of the demo federation for a server on this machine; every site is admitted."""
    source = find_config("demo")
    address = f"{host}:{port or free_ports()}"
    provision(load_federation(source), source, address, folder, sites or ("clinic",), bind)
    kit = open_server_kit(folder / "server")
    for site in kit.facts.sites:
        admit(kit, site)
    return kit


def admit(kit: ServerKit, site: str) -> None:
    """Let a site make its key and its request, and the server admit it."""
    joining = join_site(open_site_kit(kit.folder.parent / "sites" / site))
    request, _ = open_request(kit, joining.request)
    admit_site(kit, request)


def flower_settings(home: Path, address: str, kit: ServerKit) -> Path:
    """A home for Flower's own commands, in which ``mdmt`` is the SuperLink at `address`."""
    home.mkdir()
    (home / "config.toml").write_text(
        '[superlink]\ndefault = "mdmt"\n[superlink.mdmt]\n'
        f'address = "{address}"\nroot-certificates = "{kit.ca_certificate}"\n'
    )
    return home


class Upstream(BaseHTTPRequestHandler):
    """Notes what comes and answers 200, unless `answers` says otherwise."""

    paths: ClassVar[list[str]] = []
    received: ClassVar[list[int]] = []
    answers: ClassVar[dict[str, tuple[int, bytes]]] = {}
    """Status and body by path."""
    date: ClassVar[str | None] = None
    """Told in place of the time; nothing is told if it is empty."""

    def do_GET(self) -> None:
        self._answer()

    def do_POST(self) -> None:
        self._answer()

    def _answer(self) -> None:
        left = size = int(self.headers.get("Content-Length", 0))
        while left:
            left -= len(self.rfile.read(min(left, 1 << 20)))
        self.paths.append(self.path)
        self.received.append(size)
        status, body = self.answers.get(self.path, (200, b""))
        self.send_response_only(status)
        if date := self.date_time_string() if self.date is None else self.date:
            self.send_header("Date", date)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def serve(
    port: int, certificate: Path, key: Path, **attributes: object
) -> Iterator[type[Upstream]]:
    """Answer on https://127.0.0.1:`port` with that certificate."""
    handler = type("Handler", (Upstream,), {"paths": [], "received": []} | attributes)
    server = ThreadingHTTPServer(("127.0.0.1", port), handler)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    server.handle_error = lambda *_: None  # a refused handshake is what tests want
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield handler
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@contextmanager
def proxy(kit: ServerKit) -> Iterator[None]:
    """Run nginx from a server's kit; skip the test where it is not installed."""
    nginx = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin")
    if nginx is None:
        pytest.skip("nginx is not installed: apt install nginx-light")
    command = [nginx, "-p", str(kit.folder), "-c", str(kit.proxy_file), "-e", "stderr"]
    subprocess.run([*command, "-t"], check=True, capture_output=True)
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL)
    try:
        wait_for(split_address(kit.facts.server)[1], process)
        yield
    finally:
        process.terminate()
        process.wait(10)


def wait_for(port: int, process: subprocess.Popen[bytes], seconds: float = 20) -> None:
    """Wait until something listens on the loopback."""
    deadline = time.monotonic() + seconds
    while process.poll() is None and time.monotonic() < deadline:
        with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
            return
        time.sleep(0.02)
    raise RuntimeError(f"nothing listens on {port}")
