"""The process that answers messages with this installation's ClientApp.

It keeps its cohorts and models between messages, so that a round costs what its training costs. A
hospital has one, which imports torch while it waits; a simulation may have several.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from multiprocessing.connection import Connection

from flwr.app import Context, Message

from client.flower import context_bytes, identify, parse_context, read_message, write_message
from mdmt.errors import RunError
from mdmt.workers import StartMethod, WorkerProcess

_LONGEST_PAUSE = 300.0
"""Seconds before a process that keeps ending is started again."""

log = logging.getLogger(__name__)


class Worker(WorkerProcess):
    """A child process that answers messages.

    Parameters
    ----------
    prepare, method
        As `WorkerProcess` takes them.
    """

    def __init__(self, prepare: Callable[[], None], method: StartMethod = "spawn") -> None:
        super().__init__(_answer, prepare, method)
        self._deaths = 0
        self._next_start = 0.0

    def tend(self) -> None:
        """Start the process if it is not running; wait longer each time while it keeps ending."""
        if self.pid is not None:
            return
        if self._process is not None:
            pause = min(2.0**self._deaths, _LONGEST_PAUSE)
            log.warning(
                "the training process ended (%s); it starts again with the next message, or in"
                " %.0f s",
                *(self.ending, pause),
            )
            self.stop()
            self._deaths, self._next_start = self._deaths + 1, time.monotonic() + pause
        if time.monotonic() >= self._next_start:
            self.start()

    def answer(
        self, message: Message, context: Context, give_up: Callable[[], str | None]
    ) -> Message:
        """Let the process answer, for as long as `give_up` gives no reason to end it.

        If the process dies, a new one answers the same message once more.

        Raises
        ------
        RunError
            The process died again, or was ended; a new process gets the next message.
        """
        try:
            return self._attempt(message, context, give_up)
        except RunError as death:
            if give_up() is not None:  # it was ended
                raise
            log.warning("%s; a new process repeats the same order", death)
        return self._attempt(message, context, give_up)

    def _attempt(
        self, message: Message, context: Context, give_up: Callable[[], str | None]
    ) -> Message:
        self.send(message, context)
        with self.talking() as connection:
            while not connection.poll(0.2):
                if reason := give_up():
                    self.stop()
                    raise RunError(reason)
        return self.receive()

    def send(self, message: Message, context: Context) -> None:
        """Send a message to the process, which waits for one; start the process if necessary.

        Raises
        ------
        RunError
            The process died.
        """
        self.start()
        with self.talking() as connection:
            connection.send_bytes(context_bytes(context))
            write_message(connection, message)

    def receive(self) -> Message:
        """Wait for the reply to the message that was sent.

        Raises
        ------
        RunError
            The process died.
        """
        with self.talking() as connection:
            reply = read_message(connection)
        self._deaths = 0
        return reply


def _answer(connection: Connection) -> None:
    from client.app import app

    context = parse_context(connection.recv_bytes())
    message = read_message(connection)
    identify(context)
    write_message(connection, app(message, context))
