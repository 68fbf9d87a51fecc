"""The coordinator's end of the SuperLink: its health, its sites, its runs.

All use of Flower's Control API is in this file. It has no login, so it is reached on the loopback.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import grpc
import httpx
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
from cryptography.hazmat.primitives.serialization import load_ssh_public_key
from flwr.proto.control_pb2 import (
    ListNodesRequest,
    ListRunsRequest,
    RegisterNodeRequest,
    StopRunRequest,
    StreamLogsRequest,
    UnregisterNodeRequest,
)
from flwr.supercore.control import ControlHttpClient
from flwr.supercore.error import ApiErrorCode, FlowerError
from flwr.supercore.interceptors import RuntimeVersionHttpInterceptor
from flwr.supercore.primitives.asymmetric import public_key_to_bytes
from grpc_health.v1 import health_pb2, health_pb2_grpc

from mdmt.errors import BadInput, RunError
from mdmt.files import write_text
from mdmt.kits import ServerKit
from mdmt.processes import flower_environment, plain_text

__all__ = [
    "FlowerRun",
    "Node",
    "healthy",
    "list_nodes",
    "list_runs",
    "register_sites",
    "save_log",
    "start_run",
    "stop_run",
    "unregister_site",
]

_SUPERLINK = "mdmt"
"""Its name in the kit's ``config.toml``."""
_TIMEOUT = 120.0
"""Seconds a submission may take."""


@dataclass(frozen=True)
class Node:
    """A registered site as the SuperLink sees it.

    Attributes
    ----------
    name : str
    status : {"registered", "online", "offline"}
        ``registered`` has never been connected.
    since : str
        When it connected, or was last connected; ISO 8601, UTC, empty if never.
    id : int
        Flower's.
    """

    name: str
    status: str
    since: str
    id: int


@dataclass(frozen=True)
class FlowerRun:
    """A submitted run.

    Attributes
    ----------
    id : str
    status : str
        ``pending``, ``starting``, ``running``, ``finished:completed``, ``finished:failed``, ...
    """

    id: str
    status: str

    @property
    def finished(self) -> bool:
        """Whether it is over, in whatever way."""
        return self.status.startswith("finished")


def healthy(kit: ServerKit, timeout: float = 5.0) -> bool:
    """Whether the SuperLink says over gRPC that it serves; on the loopback, in plain text."""
    with grpc.insecure_channel(f"127.0.0.1:{kit.facts.health_port}") as channel:
        try:
            stub = health_pb2_grpc.HealthStub(channel)
            answer = stub.Check(health_pb2.HealthCheckRequest(), timeout=timeout)
        except grpc.RpcError:
            return False
        return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)


def register_sites(kit: ServerKit) -> tuple[list[str], list[str]]:
    """Let in the sites of the kit, by name and with the keys it holds now, and nobody else.

    Returns
    -------
    new, former : list of str
        Who was let in, and whose key was shut out: an earlier one of ``provision --force``, or one
        of a site that the kit does not name.

    Raises
    ------
    BadInput
        A site's public key is not in the kit.
    RunError
        There is no SuperLink, or a key was revoked before.
    """
    keys = {site: _public_key(kit, site) for site in kit.facts.sites}
    with _control(kit) as control:
        nodes = [
            node
            for node in control.ListNodes(ListNodesRequest()).nodes_info
            if node.status != "unregistered"
        ]
        current = {node.name for node in nodes if keys.get(node.name) == node.public_key}
        former = [node for node in nodes if node.name not in current]
        for node in former:
            control.UnregisterNode(UnregisterNodeRequest(node_id=node.node_id))
        new = sorted(set(keys) - current)
        for site in new:
            _register(control, kit, site, keys[site])
    return new, sorted(node.name for node in former)


def _public_key(kit: ServerKit, site: str) -> bytes:
    """Read a site's public key as Flower keeps it."""
    file = kit.public_key(site)
    try:
        key = load_ssh_public_key(file.read_bytes())
        assert isinstance(key, EllipticCurvePublicKey), "mdmt provision wrote it"
    except (OSError, ValueError, AssertionError, UnsupportedAlgorithm) as error:
        raise BadInput(f"{file}: not a site's public key; run mdmt provision again") from error
    return public_key_to_bytes(key)


def _register(control: ControlHttpClient, kit: ServerKit, site: str, key: bytes) -> None:
    try:
        control.RegisterNode(RegisterNodeRequest(public_key=key, name=site))
    except httpx.HTTPStatusError as error:
        said = FlowerError.from_json(error.response.text)
        if said is None or said.code != ApiErrorCode.PUBLIC_KEY_ALREADY_IN_USE:
            raise
        raise RunError(
            f"{site}: this key was revoked; delete {kit.public_key(site)} and the site's folder,"
            " and run mdmt provision again"
        ) from error


def unregister_site(kit: ServerKit, site: str) -> bool:
    """Shut a site out for good, at once; give whether it was registered."""
    found = [node.id for node in list_nodes(kit) if node.name == site]
    with _control(kit) as control:
        for node in found:
            control.UnregisterNode(UnregisterNodeRequest(node_id=node))
    return bool(found)


def list_nodes(kit: ServerKit) -> list[Node]:
    """Give the registered sites, by name."""
    with _control(kit) as control:
        nodes = control.ListNodes(ListNodesRequest()).nodes_info
    return sorted(
        (
            Node(
                node.name,
                node.status,
                node.last_activated_at if node.status == "online" else node.last_deactivated_at,
                node.node_id,
            )
            for node in nodes
            if node.status != "unregistered"
        ),
        key=lambda node: node.name,
    )


def list_runs(kit: ServerKit) -> list[FlowerRun]:
    """Give the submitted runs, newest first."""
    with _control(kit) as control:
        runs = list(control.ListRuns(ListRunsRequest()).run_dict.values())
    return [
        FlowerRun(
            str(run.run_id), ":".join(filter(None, (run.status.status, run.status.sub_status)))
        )
        for run in sorted(runs, key=lambda run: run.pending_at, reverse=True)
    ]


def stop_run(kit: ServerKit, run_id: str) -> None:
    """End a run."""
    with _control(kit) as control:
        control.StopRun(StopRunRequest(run_id=int(run_id)))


def save_log(kit: ServerKit, run_id: str, file: Path) -> None:
    """Write what the ServerApp of a finished run logged; the SuperLink keeps it in its database."""
    with _control(kit) as control:
        logged = control.StreamLogs(StreamLogsRequest(run_id=int(run_id)))
        write_text(file, plain_text("".join(part.log_output for part in logged)))


def start_run(kit: ServerKit, app: Path, run_config: Path) -> str:
    """Submit an app with ``flwr run``; give the id Flower runs it under.

    Raises
    ------
    RunError
        It was not accepted; the message is Flower's own.
    """
    arguments = [str(app), _SUPERLINK, "--run-config", str(run_config), "--format", "json"]
    done = subprocess.run(
        ["flwr", "run", *arguments],
        env=flower_environment(kit.flwr_home),
        cwd=kit.folder,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=_TIMEOUT,
        check=False,
    )
    output = plain_text(done.stdout)
    try:
        return str(json.loads(output[output.index("{") :])["run-id"])
    except (ValueError, KeyError) as error:
        said = " ".join(plain_text(done.stdout + done.stderr).split())
        raise RunError(f"the run was not accepted: {said[-300:] or 'no answer'}") from error


@contextmanager
def _control(kit: ServerKit) -> Iterator[ControlHttpClient]:
    """Reach the Control API.

    Raises
    ------
    RunError
        It cannot be reached, or refuses.
    """
    client = ControlHttpClient.from_server_address(
        server_address=f"127.0.0.1:{kit.facts.superlink_port}",
        insecure=False,
        root_certificates=kit.ca_certificate.read_bytes(),
        interceptors=[RuntimeVersionHttpInterceptor(component_name="flwr CLI")],
    )
    try:
        yield client
    except httpx.HTTPStatusError as error:
        raise RunError(f"the SuperLink refused: {error.response.text[:300]}") from error
    except httpx.HTTPError as error:
        if "CERTIFICATE_VERIFY_FAILED" in str(error):
            why = str(error).partition("certificate verify failed: ")[2] or str(error)
            raise RunError(
                f"the SuperLink's certificate is not valid ({why}): run mdmt provision again, then"
                f" mdmt server start {kit.folder}"
            ) from error
        raise RunError(
            f"no SuperLink on 127.0.0.1:{kit.facts.superlink_port}:"
            f" start it with mdmt server start {kit.folder}"
        ) from error
    finally:
        client.close()
