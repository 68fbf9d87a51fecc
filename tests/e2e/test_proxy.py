"""The proxy of the server's kit, a real nginx: sites reach the Fleet API, and nothing else."""

from __future__ import annotations

import http.client
import socket
import ssl

import pytest
from deployment import make_kits, proxy, serve

from mdmt.deployment.keys import new_key, write_key
from mdmt.deployment.kits import open_server_kit, split_address
from server.deployment.certificates import (
    certificate_pem,
    issue_ca,
    issue_server_certificate,
)
from server.deployment.kit_files import write_proxy_config

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
