"""A site's connection to Flower's Runtime API: take a message from the SuperNode, return the reply.

Flower's own `flwr-clientapp` does the same, but it imports the code that the server sent before
anybody can inspect it.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import httpx
from flwr.app import Context, Message

from client.flower import (
    ObjectPullError,
    claim_task,
    connect_runtime,
    end_task,
    identify,
    pull_message,
    pull_task,
    push_reply,
    start_heartbeat,
)

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

    def identify(self) -> None:
        """Make this process the author of the reply."""
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
        self._client = connect_runtime(address, secret=secret)

    def acquire(self) -> str | None:
        """Claim the next message; its token, or None if there is no message or no SuperNode yet."""
        try:
            return claim_task(self._client)
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
        client = connect_runtime(self._address, token=token)
        cancelled = threading.Event()
        sender = start_heartbeat(client, cancelled.set)
        completed, context, message = False, None, None
        replies: list[Message] = []
        try:
            context, app = pull_task(client)
            message = pull_message(client, context)
            yield Assignment(message, context, app, cancelled), replies
            for reply in replies:
                push_reply(client, reply, context)
            completed = True
        finally:
            # After a message was pulled, the SuperNode waits for its reply even if the task failed.
            # When the heartbeats end, it reports after a minute that there is none.
            if completed or message is None:
                end_task(client, context, completed=completed)
            sender.stop()
            client.close()

    def close(self) -> None:
        """End the connection."""
        self._client.close()
