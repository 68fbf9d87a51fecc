"""Flower's private modules at a site. No other file of `client` imports them.

A new Flower version changes this file and `server/flower.py`. Modules that are slow to import
(web server, retries) are imported inside the functions that need them: a simulation needs none.
"""

from __future__ import annotations

from collections.abc import Callable
from hashlib import sha256
from typing import TYPE_CHECKING, Any

from flwr.app import Context, Message
from flwr.app.message.message import make_message  # rebuild a message and keep its metadata
from flwr.common.constant import (
    SYSTEM_TIME_TOLERANCE,  # seconds that a site's clock may be ahead of the server's
    TIMESTAMP_TOLERANCE,  # seconds that it may be behind
    SubStatus,  # how a task ended
)
from flwr.common.serde import (  # contexts and messages between our own processes
    context_from_proto,
    context_to_proto,
    message_from_proto,
    message_to_proto,
)
from flwr.proto import runtime_pb2 as api  # requests to the SuperNode beside us
from flwr.proto.fleet_pb2 import ActivateNodeRequest  # ask whether the server knows our key
from flwr.proto.message_pb2 import Context as ContextProto  # how a context is serialised
from flwr.proto.message_pb2 import Message as MessageProto  # how a message is
from flwr.proto.node_pb2 import Node  # who pulls an object
from flwr.supercore.constant import TaskType  # the kind of task that we take
from flwr.supercore.inflatable.inflatable_protobuf_utils import (  # how objects are pulled
    make_confirm_message_received_fn_protobuf,
    make_pull_object_fn_protobuf,
)
from flwr.supercore.inflatable.inflatable_utils import (  # a message arrives as a tree of objects
    ObjectPullError,
    pull_and_inflate_object_from_tree,
)
from flwr.supercore.primitives.asymmetric import public_key_to_bytes  # how Flower encodes keys
from flwr.supercore.runtime import RuntimeHttpClient  # the connection to the SuperNode
from flwr.supercore.task_identity import TaskIdentity  # who sends the messages of this process
from flwr.supernode.fleet_http_client import FleetHttpClient  # the connection to the server

if TYPE_CHECKING:
    import httpx
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
    from flwr.supercore.heartbeat import HeartbeatSender
    from flwr.supercore.retry import RetryInvoker

__all__ = [
    "ObjectPullError",
    "SYSTEM_TIME_TOLERANCE",
    "TIMESTAMP_TOLERANCE",
    "activate_node",
    "claim_task",
    "connect_runtime",
    "context_bytes",
    "end_task",
    "identify",
    "make_message",
    "message_bytes",
    "parse_context",
    "parse_message",
    "pull_message",
    "pull_task",
    "push_reply",
    "refusal",
    "start_heartbeat",
]

_COMPONENT = "SuperExec"
"""Flower's name for a process that takes tasks."""


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


def connect_runtime(
    address: str, *, secret: bytes | None = None, token: str | None = None
) -> RuntimeHttpClient:
    """Connect to the Runtime API of a SuperNode on this machine.

    Parameters
    ----------
    address : str
        ``HOST:PORT`` on the loopback.
    secret : bytes, optional
        Shared with the SuperNode; needed to claim a task.
    token : str, optional
        Of a claimed task. Requests for it are repeated for a few seconds if they fail.
    """
    from flwr.supercore.interceptors import (  # they add the secret, the token, the version
        RuntimeTokenHttpInterceptor,
        RuntimeVersionHttpInterceptor,
        SuperExecAuthHttpInterceptor,
    )

    claiming: Any = {
        "master_secret": secret,
        "protected_methods": frozenset({"/flwr.proto.Runtime/AcquireTask"}),
    }
    return RuntimeHttpClient.from_server_address(
        server_address=address,
        insecure=True,
        root_certificates=None,
        interceptors=[
            RuntimeVersionHttpInterceptor(component_name=_COMPONENT),
            *([] if secret is None else [SuperExecAuthHttpInterceptor(**claiming)]),
            *([] if token is None else [RuntimeTokenHttpInterceptor(token)]),
        ],
        retry_invoker=None if token is None else _retries(),
    )


def _retries() -> RetryInvoker:
    """Repeat a failed request for a few seconds only: a SuperNode that is gone loses its message.

    Flower's own invoker repeats for ever, and interrupts this process when a token is not valid.
    """
    import httpx
    from flwr.supercore.retry import RetryInvoker, exponential

    return RetryInvoker(
        lambda: exponential(max_delay=2), httpx.TransportError, max_tries=4, max_time=None
    )


def claim_task(client: RuntimeHttpClient) -> str | None:
    """Claim the next message; return its token, or None if there is no message."""
    request = api.AcquireTaskRequest(supported_task_types=[TaskType.CLIENT_APP])
    return client.AcquireTask(request).token or None


def pull_task(client: RuntimeHttpClient) -> tuple[Context, str]:
    """Pull the context of a claimed task, and the SHA-256 of the bundle it should run."""
    task = client.PullTaskInput(api.PullTaskInputRequest())
    return context_from_proto(task.context), sha256(task.fab.content).hexdigest()


def pull_message(client: RuntimeHttpClient, context: Context) -> Message:
    """Pull the message of a claimed task, for as long as the server waits for the reply.

    The SuperNode announces a message before it has received all of it. If the run ends in between,
    the rest never arrives.

    Raises
    ------
    ObjectPullError
        The message is not complete.
    """
    pulled = client.PullMessages(api.PullAppMessagesRequest())
    if not pulled.messages_list:
        raise ObjectPullError("", "the message is gone")
    tree, node = pulled.message_object_trees[0], Node(node_id=context.node_id)
    message = pull_and_inflate_object_from_tree(
        tree,
        make_pull_object_fn_protobuf(client.PullObject, node, context.run_id),
        make_confirm_message_received_fn_protobuf(
            client.ConfirmMessageReceived, node, context.run_id
        ),
        return_type=Message,
        max_time=pulled.messages_list[0].metadata.ttl,
        max_tries_per_object=None,
        initial_backoff=0.05,
        backoff_cap=1.0,  # the site waits for these threads when it is stopped
    )
    # The pulled objects do not contain the message's own id.
    message.metadata.__dict__["_message_id"] = tree.object_id
    return message


def push_reply(client: RuntimeHttpClient, reply: Message, context: Context) -> None:
    """Give a reply to the SuperNode."""
    from flwr.supernode.runtime.run_clientapp import push_message

    push_message(client, reply, context)


def end_task(client: RuntimeHttpClient, context: Context | None, *, completed: bool) -> None:
    """Tell the SuperNode that a task is over."""
    from flwr.supernode.runtime.run_clientapp import push_task_output

    status = SubStatus.COMPLETED if completed else SubStatus.FAILED
    push_task_output(client, context, status, "")


def start_heartbeat(client: RuntimeHttpClient, on_cancelled: Callable[[], None]) -> HeartbeatSender:
    """Tell the SuperNode regularly that a task goes on.

    Parameters
    ----------
    client : RuntimeHttpClient
    on_cancelled : callable
        Called when the SuperNode says that the run was stopped.

    Returns
    -------
    HeartbeatSender
        Its `stop` ends the thread.
    """
    import httpx
    from flwr.supercore.heartbeat import HeartbeatSender

    def heartbeat() -> bool:
        try:
            alive = client.SendTaskHeartbeat(api.SendTaskHeartbeatRequest()).success
        except httpx.HTTPError:
            return False
        if not alive:
            on_cancelled()
        return True

    sender = HeartbeatSender(heartbeat)
    sender.start()
    return sender


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
