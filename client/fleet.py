"""Flower's Fleet API, with which a SuperNode speaks to the server: what a site asks by itself.

A new Flower version changes this file, `client/flower.py` and `server/flower.py`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from flwr.common.constant import (
    SYSTEM_TIME_TOLERANCE,  # seconds that a site's clock may be ahead of the server's
    TIMESTAMP_TOLERANCE,  # seconds that it may be behind
)
from flwr.proto.fleet_pb2 import (  # what is asked about our node
    ActivateNodeRequest,
    DeactivateNodeRequest,
)
from flwr.supercore.primitives.asymmetric import public_key_to_bytes  # how Flower encodes keys
from flwr.supernode.fleet_http_client import FleetHttpClient  # the connection to the server

if TYPE_CHECKING:
    import httpx
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey

__all__ = [
    "SYSTEM_TIME_TOLERANCE",
    "TIMESTAMP_TOLERANCE",
    "activate_node",
    "deactivate_node",
    "refusal",
]


@contextmanager
def _connected(
    server: str, ca_certificate: bytes, key: EllipticCurvePrivateKey
) -> Iterator[FleetHttpClient]:
    from flwr.supernode.node_auth_http_interceptor import NodeAuthHttpInterceptor  # it signs

    signing = NodeAuthHttpInterceptor(key, key.public_key())
    with FleetHttpClient.from_server_address(
        server, insecure=False, root_certificates=ca_certificate, interceptors=[signing]
    ) as client:
        yield client


def activate_node(
    server: str, ca_certificate: bytes, key: EllipticCurvePrivateKey, heartbeat_interval: float
) -> None:
    """Ask the server to activate the node that `key` belongs to.

    Raises
    ------
    httpx.HTTPError
        The server refused or did not answer.
    """
    public = public_key_to_bytes(key.public_key())
    with _connected(server, ca_certificate, key) as client:
        client.ActivateNode(
            ActivateNodeRequest(public_key=public, heartbeat_interval=heartbeat_interval)
        )


def deactivate_node(
    server: str, ca_certificate: bytes, key: EllipticCurvePrivateKey, node: int
) -> None:
    """Tell the server that the node of `key` left, as its SuperNode does when it ends.

    Raises
    ------
    httpx.HTTPError
        The server did not answer, or the node is not connected.
    """
    with _connected(server, ca_certificate, key) as client:
        client.DeactivateNode(DeactivateNodeRequest(node_id=node))


def refusal(response: httpx.Response) -> str:
    """Name of the `ApiErrorCode` in the server's answer; empty if there is none."""
    from flwr.supercore.error import ApiErrorCode, FlowerError

    error = FlowerError.from_json(response.text)
    return next((c.name for c in ApiErrorCode if error is not None and c == error.code), "")
