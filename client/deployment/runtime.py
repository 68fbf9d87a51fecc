"""A site's end of Flower's Runtime API: take a message from the SuperNode, give its reply back.

Flower's own `flwr-clientapp` does the same, but imports what the server shipped before anybody can
look at it. All use of Flower's internals at a site is here, but for `client.flower`.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import sha256

import httpx
from flwr.app import Context, Message
from flwr.common.constant import SubStatus
from flwr.common.serde import context_from_proto
from flwr.proto.node_pb2 import Node
from flwr.proto.runtime_pb2 import (
    AcquireTaskRequest,
    PullAppMessagesRequest,
    PullTaskInputRequest,
    SendTaskHeartbeatRequest,
)
from flwr.supercore.constant import TaskType
from flwr.supercore.heartbeat import HeartbeatSender
from flwr.supercore.inflatable.inflatable_protobuf_utils import (
    make_confirm_message_received_fn_protobuf,
    make_pull_object_fn_protobuf,
)
from flwr.supercore.inflatable.inflatable_utils import (
    ObjectPullError,
    pull_and_inflate_object_from_tree,
)
from flwr.supercore.interceptors import (
    RuntimeTokenHttpInterceptor,
    RuntimeVersionHttpInterceptor,
    SuperExecAuthHttpInterceptor,
)
from flwr.supercore.retry import RetryInvoker, exponential
from flwr.supercore.runtime import RuntimeHttpClient
from flwr.supernode.runtime.run_clientapp import push_message, push_task_output

from client.flower import identify

__all__ = ["Assignment", "ObjectPullError", "Runtime"]

_COMPONENT = "SuperExec"
"""What Flower calls a process that takes tasks."""


@dataclass(frozen=True)
class Assignment:
    """A message to answer.

    Attributes
    ----------
    message : Message
    context : Context
    app : str
        SHA-256 of the bundle that the server wants to be run.
    cancelled : threading.Event
        Set when the run was stopped: nobody waits for the reply any more.
    """

    message: Message
    context: Context
    app: str
    cancelled: threading.Event

    def identify(self) -> None:
        """Let a reply be made in this process: Flower keeps its author in a private class."""
        identify(self.context)


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
        self._client = RuntimeHttpClient.from_server_address(
            server_address=address,
            insecure=True,
            root_certificates=None,
            interceptors=[
                RuntimeVersionHttpInterceptor(component_name=_COMPONENT),
                SuperExecAuthHttpInterceptor(
                    master_secret=secret,
                    protected_methods=frozenset({"/flwr.proto.Runtime/AcquireTask"}),
                ),
            ],
        )

    def acquire(self) -> str | None:
        """Claim the next message; its token, or None if there is none or no SuperNode yet."""
        request = AcquireTaskRequest(supported_task_types=[TaskType.CLIENT_APP])
        try:
            answer = self._client.AcquireTask(request)
        except httpx.HTTPError:
            return None
        return answer.token or None

    @contextmanager
    def assignment(self, token: str) -> Iterator[tuple[Assignment, list[Message]]]:
        """Pull a claimed message; push the reply that the block appends to the list.

        Raises
        ------
        httpx.HTTPError, ObjectPullError
            The SuperNode is gone, or has only half the message.
        """
        client = RuntimeHttpClient.from_server_address(
            server_address=self._address,
            insecure=True,
            root_certificates=None,
            interceptors=[
                RuntimeVersionHttpInterceptor(component_name=_COMPONENT),
                RuntimeTokenHttpInterceptor(token),
            ],
            retry_invoker=_patience(),
        )
        cancelled = threading.Event()

        def heartbeat() -> bool:
            try:
                alive = client.SendTaskHeartbeat(SendTaskHeartbeatRequest()).success
            except httpx.HTTPError:
                return False
            if not alive:
                cancelled.set()
            return True

        sender = HeartbeatSender(heartbeat)
        sender.start()
        status, context, message = SubStatus.FAILED, None, None
        replies: list[Message] = []
        try:
            given = client.PullTaskInput(PullTaskInputRequest())
            context, app = context_from_proto(given.context), sha256(given.fab.content).hexdigest()
            message = _pull_message(client, context)
            yield Assignment(message, context, app, cancelled), replies
            for reply in replies:
                push_message(client, reply, context)
            status = SubStatus.COMPLETED
        finally:
            # A SuperNode whose message was taken waits for the reply, even of a task that failed.
            # When the heartbeats end it says itself that there is none, after a minute.
            if status == SubStatus.COMPLETED or message is None:
                push_task_output(client, context, status, "")
            sender.stop()
            client.close()

    def close(self) -> None:
        """End the connection."""
        self._client.close()


def _patience() -> RetryInvoker:
    """Ask a SuperNode that hiccups again, for seconds: one that is gone takes its message along.

    Flower's own asks for ever, and interrupts this process when a task's token is not valid.
    """
    return RetryInvoker(
        lambda: exponential(max_delay=2), httpx.TransportError, max_tries=4, max_time=None
    )


def _pull_message(client: RuntimeHttpClient, context: Context) -> Message:
    """Pull the message of a claimed task, for as long as somebody waits for its answer.

    The SuperNode names a message before it has all of it, and may never get the rest: a run that
    ends in between leaves half a message behind.
    """
    pulled = client.PullMessages(PullAppMessagesRequest())
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
        backoff_cap=1.0,  # its threads are waited for when the site is stopped
    )
    # What is taken apart does not carry its own id.
    message.metadata.__dict__["_message_id"] = tree.object_id
    return message
