"""Flower's private modules at the server. No other file of `server` imports them.

A new Flower version changes this file and the two in `client` that say so. Modules that are slow
to import (the command line, the error codes) are imported inside the functions that need them: a
simulation needs none.
"""

from __future__ import annotations

import hashlib
import ssl
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from flwr.app import RecordDict
from flwr.app.message.message import make_message  # rebuild a message and keep its metadata
from flwr.common.constant import ErrorCode  # what Flower answers in a site's stead
from flwr.common.serde import (
    recorddict_from_proto,  # how the content of a message is read
    user_config_to_proto,  # how a run configuration is serialised
)
from flwr.proto import control_pb2  # requests to the SuperLink
from flwr.proto.fab_pb2 import Fab  # a bundle
from flwr.proto.federation_config_pb2 import SimulationConfig  # resources of simulated sites
from flwr.proto.node_pb2 import NodeInfo  # what `Grid.get_nodes` returns
from flwr.proto.recorddict_pb2 import RecordDict as RecordDictProto  # how a content is serialised
from flwr.supercore.control import ControlHttpClient  # the connection to the SuperLink
from flwr.supercore.primitives.asymmetric import public_key_to_bytes  # how Flower encodes keys
from flwr.supercore.run import Run  # what a grid of our own has to hold
from flwr.supercore.task_identity import TaskIdentity  # who sends the messages of this process

if TYPE_CHECKING:
    import httpx

__all__ = [
    "ErrorCode",
    "NodeInfo",
    "Run",
    "Ask",
    "build_bundle",
    "connect_control",
    "make_message",
    "parse_content",
    "public_key_to_bytes",
    "refused_with",
    "start_run",
    "task_identity",
]


@contextmanager
def task_identity(node_id: int = 1) -> Iterator[None]:
    """Let a process that Flower did not start create messages, as node `node_id` of run 1.

    The `Message` constructor asks a private class of Flower for the sender.
    """
    before = TaskIdentity._task_id, TaskIdentity._run_id, TaskIdentity._node_id
    TaskIdentity.task_id, TaskIdentity.run_id, TaskIdentity.node_id = 1, 1, node_id
    try:
        yield
    finally:
        TaskIdentity._task_id, TaskIdentity._run_id, TaskIdentity._node_id = before


def parse_content(data: bytes) -> RecordDict:
    """Read the content of a message.

    Raises
    ------
    ValueError
        These bytes are none.
    """
    from google.protobuf.message import DecodeError

    try:
        return recorddict_from_proto(RecordDictProto.FromString(data))
    except (DecodeError, TypeError, KeyError) as error:
        raise ValueError("it is not the content of a message") from error


class Ask(Protocol):
    """A connection to the Control API."""

    def __call__(self, method: str, **fields: Any) -> Any:
        """Send a request with this name and these fields. Return the answer."""


@contextmanager
def connect_control(address: str, ca_certificate: bytes | None = None) -> Iterator[Ask]:
    """Connect to the Control API of a SuperLink on this machine; without a CA, without TLS."""
    import httpx
    from flwr.supercore.interceptors import RuntimeVersionHttpInterceptor  # it checks the version

    client = ControlHttpClient(
        f"http{'s' if ca_certificate else ''}://{address}",
        interceptors=[RuntimeVersionHttpInterceptor(component_name="flwr CLI")],
    )
    context = ssl.create_default_context(cadata=ca_certificate and ca_certificate.decode())
    # Flower's own connection would go through the proxy that the environment names.
    client._client = httpx.Client(verify=context, timeout=30.0, trust_env=False)

    def ask(method: str, **fields: Any) -> Any:
        return getattr(client, method)(getattr(control_pb2, f"{method}Request")(**fields))

    with closing(client):
        yield ask


def start_run(
    ask: Ask,
    files: Mapping[str, bytes],
    config: Mapping[str, Any],
    **simulation: Any,
) -> str:
    """Submit an app and return Flower's id of the run.

    Parameters
    ----------
    ask : Ask
    files : mapping of str to bytes
        The app's files by name.
    config : mapping of str to str, bool or Path
        The run's configuration; a path is made absolute.
    **simulation
        Resources of simulated sites, as `flwr run --federation-config` takes them.
    """
    content, digest = build_bundle(files)
    values = {key: str(v.resolve()) if isinstance(v, Path) else v for key, v in config.items()}
    answer = ask(
        "StartRun",
        fab=Fab(hash_str=digest, content=content),
        override_config=user_config_to_proto(values),
        override_federation_config=SimulationConfig(**simulation) if simulation else None,
    )
    return str(answer.run_id)


def refused_with(response: httpx.Response, name: str) -> bool:
    """Return True if the answer of the SuperLink has the error ``ApiErrorCode[name]``."""
    from flwr.supercore.error import ApiErrorCode, FlowerError

    error = FlowerError.from_json(response.text)
    return error is not None and error.code == ApiErrorCode[name]


def build_bundle(files: Mapping[str, bytes]) -> tuple[bytes, str]:
    """Return the bundle that Flower builds from these files, and its SHA-256."""
    from flwr.cli.build import build_fab_from_files

    bundle, _ = build_fab_from_files(dict(files))
    return bundle, hashlib.sha256(bundle).hexdigest()
