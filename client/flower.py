"""Flower's private modules at a site: messages between processes, and the server's Fleet API.

A new Flower version changes this file, `client/deployment/runtime.py` and `server/flower.py`; no
other file imports private modules. A simulation needs none that is slow to import.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from flwr.app import Context, Message
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
    "make_message",
    "message_bytes",
    "parse_context",
    "parse_message",
    "refusal",
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


def message_bytes(message: Message) -> bytes:
    """Serialise a message with its content."""
    data: bytes = message_to_proto(message).SerializeToString()
    return data


def parse_message(data: bytes) -> Message:
    """Read what `message_bytes` wrote."""
    return message_from_proto(MessageProto.FromString(data))


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
