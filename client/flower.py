"""Flower's private modules at a site: messages between processes, and the server's Fleet API.

A new Flower version changes this file, `client/deployment/runtime.py` and `server/flower.py`; no
other file imports private modules. A simulation needs none that is slow to import.
"""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Iterator
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING

from flwr.app import Array, ArrayRecord, Context, Message, RecordDict
from flwr.app.message.message import make_message  # rebuild a message and keep its metadata
from flwr.common.constant import (
    SYSTEM_TIME_TOLERANCE,  # seconds that a site's clock may be ahead of the server's
    TIMESTAMP_TOLERANCE,  # seconds that it may be behind
)
from flwr.common.serde import (  # contexts and messages between our own processes
    context_from_proto,
    context_to_proto,
    message_from_proto,
    message_to_proto,
)
from flwr.proto.fleet_pb2 import ActivateNodeRequest  # ask whether the server knows our key
from flwr.proto.message_pb2 import Context as ContextProto  # how a context is serialised
from flwr.proto.message_pb2 import Message as MessageProto  # how a message is
from flwr.supercore.primitives.asymmetric import public_key_to_bytes  # how Flower encodes keys
from flwr.supercore.task_identity import TaskIdentity  # who sends the messages of this process
from flwr.supernode.fleet_http_client import FleetHttpClient  # the connection to the server

if TYPE_CHECKING:
    import httpx
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey

__all__ = [
    "SYSTEM_TIME_TOLERANCE",
    "TIMESTAMP_TOLERANCE",
    "activate_node",
    "context_bytes",
    "identify",
    "parse_context",
    "read_message",
    "refusal",
    "write_message",
]


def identify(context: Context) -> None:
    """Make this process the author of messages that the node of `context` sends."""
    TaskIdentity.task_id, TaskIdentity.run_id = 1, context.run_id
    TaskIdentity.node_id = context.node_id


def context_bytes(context: Context) -> bytes:
    """Serialise a context."""
    data: bytes = context_to_proto(context).SerializeToString()
    return data


def parse_context(data: bytes) -> Context:
    """Read what `context_bytes` wrote."""
    return context_from_proto(ContextProto.FromString(data))


def write_message(connection: Connection, message: Message) -> None:
    """Write a message without its arrays, then the arrays: protobuf would copy those often."""
    bare = message
    if message.has_content():
        records = dict(message.content)
        for name, record in message.content.array_records.items():
            hollow = {key: Array(a.dtype, a.shape, a.stype, b"") for key, a in record.items()}
            records[name] = ArrayRecord(hollow)
        bare = make_message(message.metadata, RecordDict(records))
    connection.send_bytes(message_to_proto(bare).SerializeToString())
    connection.send_bytes(json.dumps([len(array.data) for array in _arrays(message)]).encode())
    with socket.socket(fileno=os.dup(connection.fileno())) as line:
        for array in _arrays(message):
            line.sendall(array.data)


def read_message(connection: Connection) -> Message:
    """Read what `write_message` wrote."""
    message = message_from_proto(MessageProto.FromString(connection.recv_bytes()))
    sizes = json.loads(connection.recv_bytes())
    with socket.socket(fileno=os.dup(connection.fileno())) as line:
        for array, size in zip(_arrays(message), sizes, strict=True):
            array.data = _receive(line, size)
    return message


def _receive(line: socket.socket, size: int) -> bytes:
    """Read `size` bytes into one object; a `Connection` would enlarge its buffer."""
    parts = []
    while size:
        parts.append(line.recv(size, socket.MSG_WAITALL))  # at most 2 GiB at once
        if not parts[-1]:
            raise EOFError
        size -= len(parts[-1])
    return parts[0] if len(parts) == 1 else b"".join(parts)


def _arrays(message: Message) -> Iterator[Array]:
    if message.has_content():
        for record in message.content.array_records.values():
            yield from record.values()


def activate_node(
    server: str, ca_certificate: bytes, key: EllipticCurvePrivateKey, heartbeat_interval: float
) -> None:
    """Ask the server to activate the node that `key` belongs to.

    Raises
    ------
    httpx.HTTPError
        The server refused or did not answer.
    """
    from flwr.supernode.node_auth_http_interceptor import NodeAuthHttpInterceptor  # it signs

    public = key.public_key()
    request = ActivateNodeRequest(
        public_key=public_key_to_bytes(public), heartbeat_interval=heartbeat_interval
    )
    with FleetHttpClient.from_server_address(
        server,
        insecure=False,
        root_certificates=ca_certificate,
        interceptors=[NodeAuthHttpInterceptor(key, public)],
    ) as client:
        client.ActivateNode(request)


def refusal(response: httpx.Response) -> str:
    """Name of the `ApiErrorCode` in the server's answer; empty if there is none."""
    from flwr.supercore.error import ApiErrorCode, FlowerError

    error = FlowerError.from_json(response.text)
    return next((c.name for c in ApiErrorCode if error is not None and c == error.code), "")
