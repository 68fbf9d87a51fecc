"""A site's connection to Flower's Runtime API: take a message from the SuperNode, return the reply.

Flower's own `flwr-clientapp` does the same, but it imports the code that the server sent before
anybody can inspect it. This module uses Flower's private modules: see `client.flower`.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

import httpx
from flwr.app import Context, Message
from flwr.common.constant import SubStatus  # how a task ended
from flwr.common.serde import context_from_proto  # how a context is serialised
from flwr.proto import runtime_pb2 as api  # requests to the SuperNode
from flwr.proto.node_pb2 import Node  # who pulls an object
from flwr.supercore.constant import TaskType  # the kind of task that we take
from flwr.supercore.heartbeat import HeartbeatSender  # tells regularly that a task goes on
from flwr.supercore.inflatable.inflatable_protobuf_utils import (  # how objects are pulled
    make_confirm_message_received_fn_protobuf,
    make_pull_object_fn_protobuf,
)
from flwr.supercore.inflatable.inflatable_utils import (  # a message arrives as a tree of objects
    ObjectPullError,
    pull_and_inflate_object_from_tree,
)
from flwr.supercore.interceptors import (  # they add the token, the version and the secret
    RuntimeTokenHttpInterceptor,
    RuntimeVersionHttpInterceptor,
    SuperExecAuthHttpInterceptor,
)
from flwr.supercore.retry import RetryInvoker, exponential  # repeat a failed request
from flwr.supercore.runtime import RuntimeHttpClient  # the connection to the SuperNode
from flwr.supernode.runtime.run_clientapp import push_message, push_task_output  # the reply

__all__ = ["Assignment", "ObjectPullError", "Runtime"]


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
    return RuntimeHttpClient.from_server_address(
        server_address=address,
        insecure=True,
        root_certificates=None,
        interceptors=[RuntimeVersionHttpInterceptor(component_name="SuperExec"), interceptor],
        retry_invoker=retries,
    )


def _beat(client: RuntimeHttpClient, cancelled: threading.Event) -> bool:
    """Tell the SuperNode that a task goes on; set `cancelled` if it says that the run was stopped.

    Returns
    -------
    bool
        Whether the SuperNode answered.
    """
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
