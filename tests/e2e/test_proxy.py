"""The proxy of the server's kit, a real nginx: sites reach the Fleet API, and nothing else."""

from __future__ import annotations

import http.client
import os
import signal
import socket
import ssl
import subprocess
import time
from contextlib import suppress
from pathlib import Path

import pytest
from deployment import free_ports, make_kits, proxy, serve, wait_for

from mdmt.deployment.keys import new_key, write_key
from mdmt.deployment.kits import open_server_kit, split_address
from mdmt.deployment.processes import is_running
from server.deployment.certificates import (
    certificate_pem,
    issue_ca,
    issue_server_certificate,
)
from server.deployment.proxy import end_orphans, proxy_service, write_proxy_config
from server.deployment.superlink import reachable

pytestmark = pytest.mark.e2e


@pytest.fixture(scope="module")
def kit(tmp_path_factory):
    return make_kits(tmp_path_factory.mktemp("kits"))


@pytest.fixture(scope="module")
def upstream(kit):
    """What stands in for the SuperLink, behind the proxy."""
    with (
        serve(kit.facts.superlink_port, kit.certificate, kit.private_key) as handler,
        proxy(kit),
    ):
        yield handler


def ask(kit, method, path, body=None, version=None, headers=None):
    context = ssl.create_default_context(cafile=kit.ca_certificate)
    if version is not None:
        context.minimum_version = context.maximum_version = version
        context.set_ciphers("ALL:@SECLEVEL=0")  # it is the server that is to refuse
    port = split_address(kit.facts.server)[1]
    connection = http.client.HTTPSConnection("localhost", port, context=context, timeout=20)
    try:
        connection.request(method, path, body, headers or {})
        answer = connection.getresponse()
        return answer, answer.read()
    finally:
        connection.close()


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/v1/fleet/activate-node"),
        ("POST", "/v1/fleet/pull-messages"),
        ("GET", "/health"),
    ],
)
def test_what_sites_need_reaches_the_superlink(kit, upstream, method, path):
    upstream.paths.clear()
    answer, _ = ask(kit, method, path, b"x" if method == "POST" else None)
    assert answer.status == 200
    assert upstream.paths == [path]


@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "OPTIONS"])
@pytest.mark.parametrize(
    "path",
    [
        "/",
        "/v1/control/start-run",
        "/v1/control/register-node",
        "/v1/runtime/pull-app-inputs",
        "/v1/fleet",
        "/v1/fleets/x",
        "/v1/Fleet/x",
        "/healthy",
        "/health/x",
        "/docs",
        "/openapi.json",
        "/v1/fleet/../control/start-run",
        "/v1/fleet/%2e%2e/control/start-run",
        "/v1/fleet/..%2fcontrol/start-run",
        "/v1/fleet/x/../../control/start-run",
        "//v1/control/start-run",
        "/v1/fleet//../control/start-run",
    ],
)
def test_everything_else_is_refused(kit, upstream, method, path):
    upstream.paths.clear()
    answer, text = ask(kit, method, path)
    assert answer.status == 403
    assert upstream.paths == []
    assert answer.headers["Server"] == "nginx"
    assert b"nginx/" not in text


def test_what_was_matched_is_what_is_passed_on(kit, upstream):
    upstream.paths.clear()
    ask(kit, "POST", "/v1/control/../fleet/pull-messages", b"x")
    ask(kit, "POST", "/v1/fleet/%70ull-messages?a=b", b"x")
    assert upstream.paths == ["/v1/fleet/pull-messages", "/v1/fleet/pull-messages?a=b"]


def test_a_large_model_passes_without_touching_the_disk(kit, upstream):
    upstream.received.clear()
    answer, _ = ask(kit, "POST", "/v1/fleet/push-object", bytes(64 << 20))
    assert answer.status == 200
    assert upstream.received == [64 << 20]
    assert not [file for file in kit.run_folder.rglob("*") if file.stat().st_size > 1 << 20]


def test_more_than_a_model_is_refused_before_it_is_read(kit, upstream):
    upstream.received.clear()
    answer, _ = ask(
        kit, "POST", "/v1/fleet/push-object", iter(()), headers={"Content-Length": str(2 << 30)}
    )
    assert answer.status == 413
    assert upstream.received == []


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_todays_tls(kit, upstream, version):
    assert ask(kit, "GET", "/health", version=version)[0].status == 200


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_no_tls_and_old_tls_are_refused(kit, upstream):
    upstream.paths.clear()
    with pytest.raises(ssl.SSLError, match="alert"):
        ask(kit, "GET", "/health", version=ssl.TLSVersion.TLSv1_1)
    with socket.create_connection(("127.0.0.1", split_address(kit.facts.server)[1]), 20) as plain:
        plain.sendall(b"POST /v1/fleet/pull-messages HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert b" 400 " in plain.recv(1000).splitlines()[0]
    assert upstream.paths == []


def test_refusals_are_logged_and_what_is_usual_is_not(kit, upstream):
    ask(kit, "POST", "/v1/control/list-runs", b"a body")
    ask(kit, "GET", "/health?usual")
    log = (kit.run_folder / "refused.log").read_text()
    assert '"POST /v1/control/list-runs HTTP/1.1" 403' in log
    assert "usual" not in log
    assert "a body" not in log


def test_a_superlink_of_another_ca_is_not_passed_to(tmp_path):
    kit = make_kits(tmp_path)
    ca_key, key = new_key(), new_key()
    other = issue_server_certificate(key, "localhost", issue_ca(ca_key, "demo"), ca_key)
    (tmp_path / "other.crt").write_text(certificate_pem(other))
    write_key(key, tmp_path / "other.key")
    files = tmp_path / "other.crt", tmp_path / "other.key"
    with serve(kit.facts.superlink_port, *files) as impostor, proxy(kit):
        assert ask(kit, "POST", "/v1/fleet/pull-messages", b"x")[0].status == 502
        assert impostor.paths == []


def test_a_kit_that_was_moved_serves_and_says_502_until_the_superlink_is_up(tmp_path):
    old = make_kits(tmp_path / "a").folder
    kit = open_server_kit(old.rename(tmp_path / "moved"))
    write_proxy_config(kit)
    with proxy(kit):
        assert ask(kit, "GET", "/health")[0].status == 502
        with serve(kit.facts.superlink_port, kit.certificate, kit.private_key):
            assert ask(kit, "GET", "/health")[0].status == 200


def test_a_proxy_whose_master_was_killed_is_back_within_seconds(tmp_path):
    """Its workers live on and keep the port, so that no other nginx could start."""
    kit = make_kits(tmp_path)
    service = proxy_service(kit)

    def tend_until_it_serves(former=None):
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline:
            service.tend()
            if service.pid not in (None, former) and _pid_of_port(kit) == service.pid:
                return ask(kit, "GET", "/health")[0].status
            time.sleep(0.05)
        raise AssertionError((kit.run_folder / "nginx.log").read_text())

    try:
        assert tend_until_it_serves() == 502
        killed, workers = service.pid, _children(service.pid)
        os.kill(killed, signal.SIGKILL)
        assert all(is_running(worker) for worker in workers)
        assert tend_until_it_serves(killed) == 502
        assert not any(is_running(worker) for worker in workers)
        workers = _children(service.pid)
        os.kill(service.pid, signal.SIGKILL)
    finally:
        service.stop()
    end_orphans(kit)  # as the next `mdmt server start` does
    assert not any(is_running(worker) for worker in workers)


def test_the_nginx_of_another_kit_is_left_alone(tmp_path):
    first, second = make_kits(tmp_path / "a"), make_kits(tmp_path / "b", port=free_ports() + 70)
    service = proxy_service(first)
    try:
        service.tend()
        wait_for(split_address(first.facts.server)[1], service._process)
        end_orphans(second)
        assert ask(first, "GET", "/health")[0].status == 502
    finally:
        service.stop()


@pytest.mark.parametrize(
    ("ciphers", "works"),
    [
        ("ECDHE-ECDSA-AES256-GCM-SHA384", True),
        ("ECDHE-ECDSA-AES128-GCM-SHA256", True),
        ("ECDHE-ECDSA-CHACHA20-POLY1305", True),
        ("ECDHE-ECDSA-AES256-SHA384", False),  # CBC
        ("ECDHE-ECDSA-AES128-SHA256", False),
        ("ECDHE-ECDSA-AES256-SHA", False),  # CBC and SHA-1
        ("ECDHE-ECDSA-AES128-SHA", False),
        ("ECDHE-ECDSA-AES128-CCM8", False),
    ],
)
def test_only_authenticated_encryption_is_spoken(kit, upstream, ciphers, works):
    context = ssl.create_default_context(cafile=kit.ca_certificate)
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers(f"{ciphers}:@SECLEVEL=0")
    address = ("127.0.0.1", split_address(kit.facts.server)[1])
    with socket.create_connection(address, 20) as line:
        if works:
            with context.wrap_socket(line, server_hostname="localhost") as tls:
                assert tls.cipher()[0] == ciphers
        else:
            with pytest.raises(ssl.SSLError, match=r"(?i)handshake.failure"):
                context.wrap_socket(line, server_hostname="localhost")


def test_no_signature_uses_sha_1(kit, upstream):
    command = ["openssl", "s_client", "-connect", kit.facts.server, "-tls1_2", "-brief"]
    for algorithm, works in (("ECDSA+SHA384", True), ("ECDSA+SHA1", False)):
        options = ["-sigalgs", algorithm, "-cipher", "ALL:@SECLEVEL=0"]
        done = subprocess.run([*command, *options], input=b"", capture_output=True, check=False)
        assert (done.returncode == 0) == works, done.stderr.decode()


def test_the_proxy_listens_where_it_is_told(tmp_path):
    kit = make_kits(tmp_path, bind="127.0.0.2")
    port = split_address(kit.facts.server)[1]
    service = proxy_service(kit)
    try:
        service.tend()
        deadline = time.monotonic() + 10
        while not reachable(kit) and time.monotonic() < deadline:
            time.sleep(0.05)
        socket.create_connection(("127.0.0.2", port), 5).close()
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", port), 5)
    finally:
        service.stop()


def _children(pid):
    found = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    assert found, "workers"
    return [int(child) for child in found]


def _pid_of_port(kit):
    """The process that nginx wrote as its own, once it accepts connections."""
    with suppress(OSError, ValueError):
        socket.create_connection(("127.0.0.1", split_address(kit.facts.server)[1]), 1).close()
        return int((kit.run_folder / "nginx.pid").read_text())
    return None
