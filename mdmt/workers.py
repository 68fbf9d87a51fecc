"""Child processes that answer requests: one may die, hang or run out of memory, and only it.

A site's launcher has one, a simulation several for its sites, a study one for each cell at a time.
"""

from __future__ import annotations

import gc
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from itertools import islice
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any, Literal, TypeVar

from mdmt.errors import MDMTError, RunError
from mdmt.memory import return_memory

StartMethod = Literal["spawn", "fork"]

TIED_TO_PARENT = ("setpriv", "--pdeathsig", "TERM")
"""Put before the command of another program: the program ends when whoever started it does, for
whatever reason (util-linux). A `WorkerProcess` checks for its parent itself."""

_GRACE = 5.0
"""Seconds a process has to end before it is killed."""
_IDLE = 10.0
"""Seconds without a request after which a process keeps no memory that it does not use."""

W = TypeVar("W", bound="WorkerProcess")
J = TypeVar("J")


class WorkerProcess:
    """A child process that answers one request after the other, until it or its parent ends.

    Parameters
    ----------
    serve : callable
        Reads one request from the connection and writes the reply to it.
    prepare : callable
        What the process does before its first request. A spawned process must be able to import
        both callables.
    method : {"spawn", "fork"}
        How the first process starts. A fork starts at once and shares the memory of what is
        imported, but this process must have no other thread and must not have used a GPU. Later
        processes are spawned, because nobody knows what this process has done by then.
    """

    def __init__(
        self,
        serve: Callable[[Connection], None],
        prepare: Callable[[], None],
        method: StartMethod = "spawn",
    ) -> None:
        self._serve, self._prepare = serve, prepare
        self._method: str = method
        self._process: BaseProcess | None = None
        self._connection: Connection | None = None

    @property
    def pid(self) -> int | None:
        """Process id while it runs."""
        return self._process.pid if self._process and self._process.is_alive() else None

    @property
    def connection(self) -> Connection:
        """Readable when a reply has arrived, or the process has ended."""
        if self._connection is None:
            raise OSError("it was stopped")  # by another thread
        return self._connection

    @property
    def ending(self) -> str:
        """How the last process ended: by a signal or with an exit code."""
        if self._process is None:
            return "it was stopped"
        self._process.join(_GRACE)
        code = self._process.exitcode
        if code is None:
            return "its connection broke"
        return f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"

    def start(self) -> None:
        """Start the process unless it runs."""
        if self.pid is not None:
            return
        self.stop()
        context = multiprocessing.get_context(self._method)
        self._method = "spawn"
        self._connection, theirs = context.Pipe()
        arguments = theirs, self._serve, self._prepare, os.getpid()
        process = context.Process(target=_run, args=arguments, name="mdmt-worker")  # type: ignore[attr-defined]
        process.start()
        self._process = process
        theirs.close()  # so that the end of the process is the end of the pipe

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

    @contextmanager
    def talking(self) -> Iterator[Connection]:
        """Yield the connection, and name the death of the process if the block meets it.

        Raises
        ------
        RunError
            The process died.
        """
        try:
            yield self.connection
        except (EOFError, OSError) as error:
            raise RunError(f"the training process ended ({self.ending})") from error


@contextmanager
def running(workers: Sequence[W]) -> Iterator[Sequence[W]]:
    """Start processes, and end them when the block ends."""
    gc.freeze()  # otherwise the first garbage collection of a fork copies all memory it shares
    try:
        for worker in workers:
            worker.start()
        yield workers
    finally:
        for worker in workers:
            worker.stop()


def map_jobs(workers: Sequence[WorkerProcess], jobs: Iterable[J]) -> Iterator[tuple[J, Any]]:
    """Give each free process the next job, and yield each job with its reply, in any order.

    Jobs and replies go through `Connection.send` and `recv`. A job is taken from `jobs` when a
    process is free. If a process dies, the reply to its job is a `RunError` that names the job, and
    a new process gets the next job.
    """
    waiting, working = iter(jobs), dict[Any, tuple[WorkerProcess, J]]()

    def employ(worker: WorkerProcess) -> None:
        for job in islice(waiting, 1):
            worker.start()
            with suppress(OSError):  # it has just died: its connection is readable then
                worker.connection.send(job)
            working[worker.connection] = worker, job

    for worker in workers:
        employ(worker)
    while working:
        for connection in wait(list(working)):
            worker, job = working.pop(connection)
            try:
                with worker.talking():
                    reply = worker.connection.recv()
            except RunError as error:
                reply = RunError(f"{job}: {error}, perhaps because memory ran out")
            employ(worker)
            yield job, reply


def _run(
    connection: Connection,
    serve: Callable[[Connection], None],
    prepare: Callable[[], None],
    parent: int,
) -> None:
    """Answer requests until the connection ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent handles Ctrl-C
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
    try:
        prepare()
    except MDMTError as error:
        sys.exit(f"error: {error}")
    with suppress(EOFError, OSError):
        while True:
            if not connection.poll(_IDLE):
                return_memory()
            serve(connection)  # keeps nothing of the request in memory


def _end_with(parent: int) -> None:
    """End this process, also in the middle of a request, when its parent has ended."""
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(1)
