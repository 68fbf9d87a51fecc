"""Flower's private modules at a site: messages between processes, and the Runtime API.

A new Flower version changes this file, `client/fleet.py` and `server/flower.py`; no other file
imports private modules. Modules that are slow to import stand inside functions: a simulation needs
none of them. Flower's own `flwr-clientapp` would import what the server sent before anybody can
inspect it.
"""

from __future__ import annotations

import json
import os
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import sha256
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING, Any

import httpx
from flwr.app import Array, ArrayRecord, Context, Message, RecordDict
from flwr.app.message.message import make_message  # rebuild a message and keep its metadata
from flwr.common.constant import (
    SubStatus,  # how a task ended
)
from flwr.common.serde import (  # contexts and messages between our own processes
    context_from_proto,
    context_to_proto,
    message_from_proto,
    message_to_proto,
    recorddict_to_proto,
)
from flwr.proto import runtime_pb2 as api  # requests to the SuperNode
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
from flwr.supercore.runtime import RuntimeHttpClient  # the connection to the SuperNode
from flwr.supercore.task_identity import TaskIdentity  # who sends the messages of this process

if TYPE_CHECKING:
    from flwr.supercore.retry import RetryInvoker

__all__ = ["ObjectPullError"]


def identify(context: Context) -> None:
    """Make this process the author of messages that the node of `context` sends."""
    TaskIdentity.task_id, TaskIdentity.run_id = 1, context.run_id
    TaskIdentity.node_id = context.node_id


def context_bytes(context: Context) -> bytes:
    """Serialise a context."""
    data: bytes = context_to_proto(context).SerializeToString()
    return data


def content_bytes(content: RecordDict) -> bytes:
    """Serialise the content of a message."""
    data: bytes = recorddict_to_proto(content).SerializeToString()
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


@dataclass(frozen=True)
class Assignment:
    """A message to answer.

    Attributes
    ----------
    message : Message
    context : Context
    app : str
        SHA-256 of the bundle that the server wants to run.
    cancelled : threading.Event
        Set when the run was stopped: the server does not wait for the reply any more.
    """

    message: Message
    context: Context
    app: str
    cancelled: threading.Event


class Runtime:
    """The Runtime API of a SuperNode on this machine.

    Parameters
    ----------
    address : str
        ``HOST:PORT`` on the loopback.
    secret : bytes
        Shared with the SuperNode, so that no other user of this machine can take a task.
    """

    def __init__(self, address: str, secret: bytes) -> None:
        self._address = address
        # It signs the claim of a message with the secret.
        from flwr.supercore.interceptors import SuperExecAuthHttpInterceptor

        claims = frozenset({"/flwr.proto.Runtime/AcquireTask"})
        self._client = _connect(
            address, SuperExecAuthHttpInterceptor(master_secret=secret, protected_methods=claims)
        )

    def acquire(self) -> str | None:
        """Claim the next message; its token, or None if there is no message or no SuperNode yet."""
        request = api.AcquireTaskRequest(supported_task_types=[TaskType.CLIENT_APP])
        try:
            return self._client.AcquireTask(request).token or None
        except httpx.HTTPError:
            return None

    @contextmanager
    def assignment(self, token: str) -> Iterator[tuple[Assignment, list[Message]]]:
        """Pull a claimed message; push the reply that the block appends to the list.

        Raises
        ------
        httpx.HTTPError, ObjectPullError
            The SuperNode is gone, or has only a part of the message.
        """
        from flwr.supercore.heartbeat import HeartbeatSender  # says regularly that a task goes on
        from flwr.supercore.interceptors import RuntimeTokenHttpInterceptor  # adds the task's token
        from flwr.supercore.retry import RetryInvoker, exponential  # repeats a failed request
        from flwr.supernode.runtime.run_clientapp import push_message, push_task_output  # the reply

        # Flower's own invoker repeats for ever, and interrupts this process when a token is not
        # valid. A SuperNode that is gone loses its message after a few seconds.
        retries = RetryInvoker(
            lambda: exponential(max_delay=2), httpx.TransportError, max_tries=4, max_time=None
        )
        client = _connect(self._address, RuntimeTokenHttpInterceptor(token), retries)
        cancelled = threading.Event()
        sender = HeartbeatSender(lambda: _beat(client, cancelled))
        sender.start()
        status, context, message = SubStatus.FAILED, None, None
        replies: list[Message] = []
        try:
            task = client.PullTaskInput(api.PullTaskInputRequest())
            context = context_from_proto(task.context)
            message = _pull_message(client, context)
            app = sha256(task.fab.content).hexdigest()
            yield Assignment(message, context, app, cancelled), replies
            for reply in replies:
                push_message(client, reply, context)
            status = SubStatus.COMPLETED
        finally:
            # After a message was pulled, the SuperNode waits for its reply even if the task failed.
            # When the heartbeats end, it reports after a minute that there is none.
            if status == SubStatus.COMPLETED or message is None:
                push_task_output(client, context, status, "")
            sender.stop()
            client.close()

    def close(self) -> None:
        """End the connection."""
        self._client.close()


def _connect(
    address: str, interceptor: Any, retries: RetryInvoker | None = None
) -> RuntimeHttpClient:
    from flwr.supercore.interceptors import RuntimeVersionHttpInterceptor  # adds the version

    return RuntimeHttpClient.from_server_address(
        server_address=address,
        insecure=True,
        root_certificates=None,
        interceptors=[RuntimeVersionHttpInterceptor(component_name="SuperExec"), interceptor],
        retry_invoker=retries,
    )


def _beat(client: RuntimeHttpClient, cancelled: threading.Event) -> bool:
    """Report that a task goes on, and whether that worked; set `cancelled` if the run stopped."""
    try:
        if not client.SendTaskHeartbeat(api.SendTaskHeartbeatRequest()).success:
            cancelled.set()
    except httpx.HTTPError:
        return False
    return True


def _pull_message(client: RuntimeHttpClient, context: Context) -> Message:
    """Pull the message of a claimed task, for as long as the server waits for the reply.

    The SuperNode announces a message before it has received all of it. If the run ends in between,
    the rest never arrives: an `ObjectPullError`.
    """
    pulled = client.PullMessages(api.PullAppMessagesRequest())
    if not pulled.messages_list:
        raise ObjectPullError("", "the message is gone")
    tree, node = pulled.message_object_trees[0], Node(node_id=context.node_id)
    confirm, run = client.ConfirmMessageReceived, context.run_id
    message = pull_and_inflate_object_from_tree(
        tree,
        make_pull_object_fn_protobuf(client.PullObject, node, run),
        make_confirm_message_received_fn_protobuf(confirm, node, run),
        return_type=Message,
        max_time=pulled.messages_list[0].metadata.ttl,
        max_tries_per_object=None,
        initial_backoff=0.05,
        backoff_cap=1.0,  # the site waits for these threads when it is stopped
    )
    # The pulled objects do not contain the message's own id.
    message.metadata.__dict__["_message_id"] = tree.object_id
    return message
