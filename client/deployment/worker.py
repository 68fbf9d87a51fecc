"""A process that answers messages, apart from whoever asks: it may die, hang or run out of memory.

It keeps its cohorts and models between messages, so that a round costs what its training costs. A
hospital has one, which imports torch while it waits; a simulation may have several.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import Literal

from flwr.app import Context, Message

from client.deployment.transfer import read_message, write_message
from client.flower import context_bytes, identify, parse_context
from mdmt.errors import MDMTError, RunError
from mdmt.memory import return_memory

__all__ = ["Worker"]

_GRACE = 5.0
"""Seconds a worker has to end before it is killed."""
_LONGEST_PAUSE = 300.0
"""Seconds before one that keeps ending is started again."""
_IDLE = 10.0
"""Seconds without a message after which a worker keeps no memory it does not use."""

log = logging.getLogger(__name__)


class Worker:
    """A child process that answers messages with this installation's ClientApp.

    Parameters
    ----------
    prepare : callable
        What the process does before its first message; a spawned one must be able to import it.
    method : {"spawn", "fork"}
        How the first process starts. A fork is there at once and shares the memory of what is
        imported, but this process must have no other thread and must not have used a GPU. Later
        starts spawn, as nobody knows what this process has done by then.
    """

    def __init__(
        self, prepare: Callable[[], None], method: Literal["spawn", "fork"] = "spawn"
    ) -> None:
        self._prepare = prepare
        self._method: str = method
        self._process: BaseProcess | None = None
        self._connection: Connection | None = None
        self._deaths = 0
        self._next_start = 0.0

    @property
    def pid(self) -> int | None:
        """Process id while it runs."""
        return self._process.pid if self._process and self._process.is_alive() else None

    def tend(self) -> None:
        """Start the process if it is not running, ever less eagerly while it keeps ending."""
        if self.pid is not None:
            return
        if self._process is not None:
            pause = min(2.0**self._deaths, _LONGEST_PAUSE)
            log.warning(
                "the training process ended (%s); it starts again with the next message, or in"
                " %.0f s",
                *(_ending(self._process), pause),
            )
            self.stop()
            self._deaths, self._next_start = self._deaths + 1, time.monotonic() + pause
        if time.monotonic() >= self._next_start:
            self.start()

    @property
    def connection(self) -> Connection:
        """Readable when a reply is there, or the process is gone."""
        if self._connection is None:
            raise OSError("it was stopped")  # by another thread
        return self._connection

    def start(self) -> None:
        """Start the process unless it runs."""
        if self.pid is not None:
            return
        self.stop()
        context = multiprocessing.get_context(self._method)
        self._method = "spawn"
        self._connection, theirs = context.Pipe()
        self._process = context.Process(  # type: ignore[attr-defined]
            target=_serve, args=(theirs, self._prepare, os.getpid()), name="mdmt-worker"
        )
        assert self._process is not None
        self._process.start()
        theirs.close()  # so that its end is the end of the pipe

    def answer(
        self, message: Message, context: Context, give_up: Callable[[], str | None]
    ) -> Message:
        """Let the process answer, for as long as `give_up` gives no reason to end it.

        Raises
        ------
        RunError
            The process died, or was ended; the next message meets a new one.
        """
        self.send(message, context)
        while not self._has_news():
            if reason := give_up():
                self.stop()
                raise RunError(reason)
        return self.receive()

    def send(self, message: Message, context: Context) -> None:
        """Give a message to the process, which is started if need be, and waits for one.

        Raises
        ------
        RunError
            The process died.
        """
        self.start()
        try:
            self.connection.send_bytes(context_bytes(context))
            write_message(self.connection, message)
        except OSError as error:
            raise self._death() from error

    def receive(self) -> Message:
        """Wait for the reply to the message that was sent.

        Raises
        ------
        RunError
            The process died.
        """
        try:
            reply = read_message(self.connection)
        except (EOFError, OSError) as error:
            raise self._death() from error
        self._deaths = 0
        return reply

    def stop(self) -> None:
        """End the process."""
        if self._connection is not None:
            self._connection.close()
        if self._process is not None:
            self._process.terminate()
            self._process.join(_GRACE)
            if self._process.is_alive():
                self._process.kill()
                self._process.join()
        self._process = self._connection = None

    def _has_news(self) -> bool:
        try:
            return self.connection.poll(0.2)
        except OSError as error:
            raise self._death() from error

    def _death(self) -> RunError:
        """Say how the process ended."""
        process = self._process
        ending = "it was stopped" if process is None else _ending(process)
        return RunError(f"the training process ended ({ending})")


def _ending(process: BaseProcess) -> str:
    """Say how the process ended."""
    process.join(_GRACE)
    code = process.exitcode
    if code is None:
        return "its connection broke"
    return f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"


def _serve(connection: Connection, prepare: Callable[[], None], parent: int) -> None:
    """Answer messages until the connection ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a Ctrl-C is the parent's to handle
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    threading.Thread(target=_follow, args=(parent,), daemon=True).start()
    try:
        prepare()
    except MDMTError as error:
        sys.exit(f"error: {error}")
    with suppress(EOFError, OSError):
        while True:
            if not connection.poll(_IDLE):
                return_memory()
            _serve_one(connection)  # which leaves nothing in memory


def _serve_one(connection: Connection) -> None:
    from client.app import app

    context = parse_context(connection.recv_bytes())
    message = read_message(connection)
    identify(context)
    write_message(connection, app(message, context))


def _follow(parent: int) -> None:
    """End this process, in the middle of training too, when its parent is gone."""
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(1)
