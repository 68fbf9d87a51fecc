"""The coordinator's connection to the SuperLink: its health and its runs.

Flower's Control API, which `nodes` uses too, has no login: only the loopback reaches it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import grpc
import httpx
import typer
from grpc_health.v1 import health_pb2, health_pb2_grpc

from mdmt.deployment.kits import ServerKit
from mdmt.errors import RunError
from mdmt.files import write_text
from server.flower import Ask, connect_control


class FlowerRun(NamedTuple):
    """A submitted run.

    Its status is ``pending``, ``starting``, ``running``, ``finished:completed``,
    ``finished:failed``, ...
    """

    id: str
    status: str

    @property
    def finished(self) -> bool:
        """Whether the run is over."""
        return self.status.startswith("finished")


def healthy(kit: ServerKit, timeout: float = 5.0) -> bool:
    """Whether the SuperLink reports over gRPC that it serves; plain text, on the loopback."""
    with grpc.insecure_channel(f"127.0.0.1:{kit.facts.health_port}") as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        try:
            answer = stub.Check(health_pb2.HealthCheckRequest(), timeout=timeout)
        except grpc.RpcError:
            return False
        return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)


def list_runs(kit: ServerKit) -> list[FlowerRun]:
    """List the submitted runs, newest first."""
    with control(kit) as ask:
        runs = list(ask("ListRuns").run_dict.values())
    return [
        FlowerRun(str(run.run_id), f"{run.status.status}:{run.status.sub_status}".rstrip(":"))
        for run in sorted(runs, key=lambda run: run.pending_at, reverse=True)
    ]


def stop_run(kit: ServerKit, run_id: str) -> None:
    """End a run."""
    with control(kit) as ask:
        ask("StopRun", run_id=int(run_id))


def save_log(kit: ServerKit, run_id: str, file: Path) -> None:
    """Write what the ServerApp of a finished run logged; the SuperLink keeps it in its database."""
    with control(kit) as ask:
        parts = [part.log_output for part in ask("StreamLogs", run_id=int(run_id))]
    write_text(file, typer.unstyle("".join(parts)))


@contextmanager
def control(kit: ServerKit) -> Iterator[Ask]:
    """Connect to the Control API.

    Raises
    ------
    RunError
        The SuperLink cannot be reached, or refuses.
    """
    address = f"127.0.0.1:{kit.facts.superlink_port}"
    start = f"mdmt server start {kit.folder}"
    try:
        with connect_control(address, kit.ca_certificate.read_bytes()) as ask:
            yield ask
    except httpx.HTTPStatusError as error:
        raise RunError(f"the SuperLink refused: {error.response.text[:300]}") from error
    except httpx.HTTPError as error:
        problem = f"no SuperLink on {address}: start it with {start}"
        if "CERTIFICATE_VERIFY_FAILED" in str(error):
            why = str(error).rpartition("certificate verify failed: ")[2]
            problem = (
                f"the SuperLink's certificate is not valid ({why}): run mdmt provision again, then"
                f" {start}"
            )
        raise RunError(problem) from error
