"""The check of a site's key against a real SuperLink behind the real proxy."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sysconfig
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import httpx
import pytest
from deployment import flower_settings, make_kits, proxy, wait_for
from flwr.proto.fleet_pb2 import ActivateNodeRequest
from flwr.supercore.primitives.asymmetric import public_key_to_bytes
from flwr.supernode import node_auth_http_interceptor
from flwr.supernode.fleet_http_client import FleetHttpClient
from flwr.supernode.node_auth_http_interceptor import NodeAuthHttpInterceptor

from client.deployment.check.registered import check_registered
from client.deployment.check.server import (
    Answer,
    ask_server,
    check_certificate,
    check_clock,
    check_server,
)
from mdmt.deployment.keys import read_key
from mdmt.deployment.kits import open_site_kit

pytestmark = [pytest.mark.e2e, pytest.mark.slow]


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    return make_kits(tmp_path_factory.mktemp("kits"), "clinic", "stranger")


@pytest.fixture(scope="module")
def environment(server):
    scripts = sysconfig.get_path("scripts")
    flower_settings(server.flwr_home, f"127.0.0.1:{server.facts.superlink_port}", server)
    return os.environ | {
        "FLWR_HOME": str(server.flwr_home),
        "FLWR_DISABLE_UPDATE_CHECK": "1",
        "FLWR_TELEMETRY_ENABLED": "0",
        "NO_PROXY": "127.0.0.1,localhost",
        "PATH": f"{scripts}{os.pathsep}{os.environ['PATH']}",
    }


@pytest.fixture(scope="module")
def superlink(server, environment):
    """The SuperLink and its proxy, with `clinic` registered and `stranger` not."""
    command = [
        "flower-superlink",
        "--host",
        "127.0.0.1",
        "--port",
        str(server.facts.superlink_port),
    ]
    command += ["--ssl-ca-certfile", str(server.ca_certificate)]
    command += ["--ssl-certfile", str(server.certificate), "--ssl-keyfile", str(server.private_key)]
    command += ["--enable-supernode-auth", "--disable-runtime-dependency-installation"]
    command += ["--database", str(server.database)]
    with (server.folder / "superlink.log").open("wb") as log:
        process = subprocess.Popen(
            command,
            cwd=server.folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    try:
        wait_for(server.facts.superlink_port, process, seconds=60)
        flwr(environment, "register", server.public_key("clinic"), "mdmt", "--name", "clinic")
        with proxy(server):
            yield
    finally:
        process.terminate()
        with suppress(subprocess.TimeoutExpired):
            process.wait(15)
        with suppress(ProcessLookupError):  # whatever it started
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def flwr(environment, *arguments):
    command = ["flwr", "supernode", *map(str, arguments), "--format", "json"]
    done = subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=60, check=True
    )
    return json.loads(done.stdout)


def status(environment):
    (node,) = flwr(environment, "list", "mdmt")["nodes"]
    return node["status"]


def site(server, name):
    return open_site_kit(server.folder.parent / "sites" / name)


def connected(server, private, public):
    """A client of the Fleet API, as a SuperNode's."""
    return FleetHttpClient.from_server_address(
        server.facts.server,
        insecure=False,
        root_certificates=str(server.ca_certificate),
        interceptors=[NodeAuthHttpInterceptor(private, public)],
    )


def activation(key):
    public = public_key_to_bytes(key.public_key())
    return ActivateNodeRequest(public_key=public, heartbeat_interval=30)


def test_a_registered_key_is_known_and_its_node_is_left_as_it_was(server, environment, superlink):
    kit = site(server, "clinic")
    answer = ask_server(kit)
    for check in (check_certificate, check_server, check_clock):
        assert check(answer).outcome == "pass"
    assert check_registered(kit, answer).outcome == "pass"
    assert status(environment) == "registered"
    key = read_key(kit.private_key, openssh=True)
    with connected(server, key, key.public_key()) as client:
        client.ActivateNode(activation(key))
    assert status(environment) == "online"
    assert check_registered(kit, answer).outcome == "pass"
    assert status(environment) == "online"


def test_an_unregistered_key_is_not_known(server, superlink):
    kit = site(server, "stranger")
    check = check_registered(kit, ask_server(kit))
    assert check.outcome == "fail"
    assert "does not know this site's key" in check.found


def test_a_key_under_anothers_name_is_refused(server, superlink):
    """Who has but the public half of a key proves nothing with it."""
    clinic, stranger = (
        read_key(site(server, name).private_key, openssh=True) for name in ("clinic", "stranger")
    )
    with (
        connected(server, stranger, clinic.public_key()) as client,
        pytest.raises(httpx.HTTPStatusError, match="401"),
    ):
        client.ActivateNode(activation(clinic))


@pytest.mark.parametrize(
    ("ahead", "outcome"), [(-310, "fail"), (-290, "pass"), (3, "pass"), (10, "fail")]
)
def test_flower_refuses_the_clocks_that_the_check_fails(
    server, superlink, monkeypatch, ahead, outcome
):
    wrong = datetime.now(UTC) + timedelta(seconds=ahead)
    monkeypatch.setattr(node_auth_http_interceptor, "now", lambda: wrong)
    kit = site(server, "clinic")
    answer = ask_server(kit)
    assert isinstance(answer, Answer)
    assert check_registered(kit, answer).outcome == outcome
    clock = check_clock(replace(answer, moment=answer.moment + ahead))
    assert (clock.outcome == "fail") == (outcome == "fail")


def test_the_proxy_keeps_flowers_own_commands_out(server, environment, superlink, tmp_path):
    outside = flower_settings(tmp_path / "flwr", server.facts.server, server)
    command = ["flwr", "supernode", "list", "mdmt"]
    told = subprocess.run(
        command,
        env=environment | {"FLWR_HOME": str(outside)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert told.returncode != 0
    log = (server.run_folder / "refused.log").read_text()
    assert "/v1/control/" in log
    assert " 403 " in log
