"""Sites of a simulation answered for by several processes at once.

Site i belongs to worker i modulo their number, so that its images and model stay where they are
warm. What a site computes depends on nothing but its files and its message: the bits of a result do
not depend on how many workers there are, nor on which of them had to be started again.
"""

from __future__ import annotations

import gc
import logging
import os
import sys
import threading
import time
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from multiprocessing.connection import wait
from typing import Literal

import torch
from flwr.app import Error, Message, UserConfig

from client.deployment.worker import Worker
from mdmt.config import FederationConfig
from mdmt.errors import RunError
from mdmt.training import resolve_device
from server.flower import ErrorCode
from simulation.engine import LocalGrid

__all__ = ["WorkerGrid", "choose_gpu", "count_workers", "start_workers"]

_MEMORY = 2 << 30
"""Bytes of the machine's memory a worker must find before it is started unasked."""


class WorkerGrid(LocalGrid):
    """A grid whose nodes are answered for by worker processes.

    A worker holds one message at a time; the others wait here, and those that nobody waits for any
    more when their turn comes are dropped. A worker that dies costs the site it worked for a reply.

    Parameters
    ----------
    workers : sequence of Worker
    run_config : mapping
        As `flwr run` would hand it to the apps.
    n_sites : int
    """

    def __init__(self, workers: Sequence[Worker], run_config: UserConfig, n_sites: int) -> None:
        super().__init__(run_config, n_sites)
        self._workers = {
            node: workers[number % len(workers)] for number, node in enumerate(self.contexts)
        }
        self._queues: dict[Worker, deque[Message]] = {worker: deque() for worker in workers}
        self._working: dict[Worker, Message] = {}
        self._replies: dict[str, Message] = {}

    def queue(self, message: Message) -> None:
        """Give a message to its worker, at once if that is free."""
        worker = self._workers[message.metadata.dst_node_id]
        self._queues[worker].append(message)
        self._employ(worker)

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Wait for replies, until one is there or none can come in time."""
        wanted = set(message_ids)
        while not (here := wanted & self._replies.keys()) and self._working:
            patience = max(_left(message) for message in self._working.values())
            by_connection = {worker.connection: worker for worker in self._working}
            ready = wait(by_connection, max(0.0, patience))
            if not ready:
                break
            for connection in ready:
                self._collect(by_connection[connection])  # type: ignore[index]
        return [self._replies.pop(message_id) for message_id in sorted(here)]

    def _employ(self, worker: Worker) -> None:
        """Give a free worker the next message that is still waited for."""
        queue = self._queues[worker]
        while queue and worker not in self._working:
            message = queue.popleft()
            if _left(message) > 0:
                try:
                    worker.send(message, self.contexts[message.metadata.dst_node_id])
                    self._working[worker] = message
                except RunError as error:
                    self._note(message, _failure(message, error))

    def _collect(self, worker: Worker) -> None:
        """Take a worker's reply, or its death, and give it the next message."""
        message = self._working.pop(worker)
        try:
            reply = worker.receive()
        except RunError as error:
            reply = _failure(message, error)
        self._employ(worker)
        self._note(message, reply)

    def _note(self, message: Message, reply: Message) -> None:
        if _left(message) > 0:
            self._replies[message.metadata.message_id] = reply


def count_workers(config: FederationConfig) -> int:
    """How many workers a federation gets unless told: as many as can help and find their place.

    One per visible GPU where sites train on GPUs; else one per `training.threads` processors this
    process may use, and at most one per 2 GiB of the machine's memory and per site.
    """
    sites = config.sites.values()
    if any(resolve_device(site.device).type == "cuda" for site in sites):
        places = torch.cuda.device_count()
    else:
        places = _processors() // max(_threads(config), default=1)
        if sys.platform != "win32":
            places = min(
                places, os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // _MEMORY
            )
    return max(1, min(places, len(sites)))


@contextmanager
def start_workers(config: FederationConfig, number: int) -> Iterator[list[Worker]]:
    """Start workers for a federation, and end them when the block ends; none if `number` is 1.

    They fork from this process where that is safe: it has no other Python thread, and the children
    use neither a GPU nor torch's thread pool, of which a fork inherits nothing but the locks. They
    are then there at once and share the memory of what this process has imported.
    """
    number = min(number, len(config.sites))
    if number <= 1:
        yield []
        return
    from client import app  # noqa: F401  what forks are to share

    fork = (
        sys.platform == "linux"
        and threading.active_count() == 1
        and max(_threads(config)) == 1
        and all(resolve_device(site.device).type == "cpu" for site in config.sites.values())
    )
    method: Literal["fork", "spawn"] = "fork" if fork else "spawn"
    workers = [Worker(partial(_prepare, i), method) for i in range(number)]
    gc.freeze()  # else the first collection of a fork copies all it shares
    try:
        for worker in workers:
            worker.start()
        yield workers
    finally:
        for worker in workers:
            worker.stop()


def choose_gpu(number: int) -> None:
    """Let this process train on a GPU of its own where there are several."""
    if torch.cuda.is_available():
        torch.cuda.set_device(number % torch.cuda.device_count())


def _prepare(number: int) -> None:
    """Prepare a worker process."""
    logging.getLogger("mdmt").setLevel(logging.ERROR)  # the parent warned of the data already
    torch.set_num_threads(1)  # until a site says how many
    choose_gpu(number)


def _processors() -> int:
    """Processors that this process may use."""
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1


def _threads(config: FederationConfig) -> list[int]:
    return [site.threads or config.training.threads for site in config.sites.values()]


def _left(message: Message) -> float:
    """Seconds for which a reply to a message is waited for."""
    return message.metadata.created_at + message.metadata.ttl - time.time()


def _failure(message: Message, error: RunError) -> Message:
    return Message(Error(ErrorCode.CLIENT_APP_CRASHED, str(error)), reply_to=message)
