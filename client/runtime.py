"""A site's end of Flower's Runtime API: take a message from the SuperNode, give its reply back.

Flower's own `flwr-clientapp` does the same, but imports what the server shipped before anybody can
look at it. All use of Flower's internals at a site is in this file.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import httpx
from flwr.app import Context, Message
from flwr.common.constant import SubStatus
from flwr.proto.runtime_pb2 import AcquireTaskRequest, SendTaskHeartbeatRequest
from flwr.supercore.constant import TaskType
from flwr.supercore.heartbeat import HeartbeatSender
from flwr.supercore.interceptors import (
    RuntimeTokenHttpInterceptor,
    RuntimeVersionHttpInterceptor,
    SuperExecAuthHttpInterceptor,
)
from flwr.supercore.retry import make_simple_http_retry_invoker
from flwr.supercore.runtime import RuntimeHttpClient
from flwr.supernode.runtime.run_clientapp import pull_task_input, push_message, push_task_output

__all__ = ["Assignment", "Runtime"]

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
        httpx.HTTPError
            The SuperNode is gone: it will say itself that there is no reply.
        """
        client = RuntimeHttpClient.from_server_address(
            server_address=self._address,
            insecure=True,
            root_certificates=None,
            interceptors=[
                RuntimeVersionHttpInterceptor(component_name=_COMPONENT),
                RuntimeTokenHttpInterceptor(token),
            ],
            retry_invoker=make_simple_http_retry_invoker(),
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
        status, context = SubStatus.FAILED, None
        replies: list[Message] = []
        try:
            message, context, _, bundle = pull_task_input(client)
            app = hashlib.sha256(bundle.content).hexdigest()
            yield Assignment(message, context, app, cancelled), replies
            for reply in replies:
                push_message(client, reply, context)
            status = SubStatus.COMPLETED
        finally:
            push_task_output(client, context, status, "")
            sender.stop()
            client.close()

    def close(self) -> None:
        """End the connection."""
        self._client.close()
