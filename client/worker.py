"""The process that trains: apart from the launcher, so that it may die, hang or run out of memory.

It imports torch while it waits for its first message and keeps its cohort and model between
messages, so that a round costs what its training costs.
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
from pathlib import Path

from flwr.app import Context, Message
from flwr.common.serde import (
    context_from_proto,
    context_to_proto,
    message_from_proto,
    message_to_proto,
)
from flwr.proto.message_pb2 import Context as ContextProto
from flwr.proto.message_pb2 import Message as MessageProto

from client.runtime import identify
from mdmt.errors import MDMTError, RunError

__all__ = ["Worker"]

_GRACE = 5.0
"""Seconds a worker has to end before it is killed."""
_LONGEST_PAUSE = 300.0
"""Seconds before one that keeps ending is started again."""

log = logging.getLogger(__name__)


class Worker:
    """A child process that answers messages with this installation's ClientApp.

    Parameters
    ----------
    site_file : Path
        The site's configuration; its policy caps the child's memory.
    """

    def __init__(self, site_file: Path) -> None:
        self._site_file = site_file
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

    def start(self) -> None:
        """Start the process unless it runs."""
        if self.pid is not None:
            return
        self.stop()
        context = multiprocessing.get_context("spawn")
        self._connection, theirs = context.Pipe()
        self._process = context.Process(
            target=_serve, args=(theirs, self._site_file, os.getpid()), name="mdmt-worker"
        )
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
        self.start()
        connection, process = self._connection, self._process  # `stop` may be called meanwhile
        assert connection is not None, "start makes it"
        assert process is not None, "start makes it"
        try:
            connection.send_bytes(context_to_proto(context).SerializeToString())
            connection.send_bytes(message_to_proto(message).SerializeToString())
            while not connection.poll(0.2):
                if reason := give_up():
                    self.stop()
                    raise RunError(reason)
            reply = message_from_proto(MessageProto.FromString(connection.recv_bytes()))
            self._deaths = 0
            return reply
        except (EOFError, OSError) as error:
            raise RunError(f"the training process ended ({_ending(process)})") from error

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


def _ending(process: BaseProcess) -> str:
    """Say how the process ended."""
    process.join(_GRACE)
    code = process.exitcode
    if code is None:
        return "its connection broke"
    return f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"


def _serve(connection: Connection, site_file: Path, parent: int) -> None:
    """Answer messages until the connection ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a Ctrl-C is the launcher's to handle
    threading.Thread(target=_follow, args=(parent,), daemon=True).start()
    from client.app import app
    from client.policy import cap_memory
    from mdmt.config import load_site

    try:
        site = load_site(site_file)
        cap_memory(site.policy, site.device)
    except MDMTError as error:
        sys.exit(f"error: {error}")
    with suppress(EOFError, OSError):
        while True:
            context = context_from_proto(ContextProto.FromString(connection.recv_bytes()))
            message = message_from_proto(MessageProto.FromString(connection.recv_bytes()))
            identify(context)
            reply = app(message, context)
            connection.send_bytes(message_to_proto(reply).SerializeToString())


def _follow(parent: int) -> None:
    """End this process, in the middle of training too, when the launcher is gone."""
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(1)
