"""Processes that answer for the sites of a simulation, several at the same time.

The result of a site depends only on its files and its message. So the bits of a run depend neither
on the number of workers nor on restarts of workers.
"""

from __future__ import annotations

import logging
import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

import torch

from client.deployment.worker import Worker
from mdmt.config import FederationConfig
from mdmt.training import resolve_device
from mdmt.workers import StartMethod, running

_MEMORY = 2 << 30
"""Bytes of the machine's memory per worker, if the user does not set the number of workers."""


def count_workers(config: FederationConfig) -> int:
    """Default number of workers of a federation: as many as fit here, and at most one per site."""
    return min(count_places(config), max(1, len(config.sites)))


def count_places(config: FederationConfig) -> int:
    """Number of processes that can train sites of a federation on this machine at once.

    One per visible GPU where sites train on GPUs; otherwise one per `training.threads` processors
    that this process may use, and at most one per 2 GiB of the machine's memory.
    """
    if any(resolve_device(site.device).type == "cuda" for site in config.sites.values()):
        return max(1, torch.cuda.device_count())
    places = _processors() // max(_threads(config), default=1)
    if sys.platform != "win32":
        memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        places = min(places, memory // _MEMORY)
    return max(1, places)


@contextmanager
def start_workers(config: FederationConfig, number: int) -> Iterator[list[Worker]]:
    """Start workers for a federation, and end them after the block. If `number` is 1, start none.

    They fork from this process where that is safe: it has no other Python thread, and the children
    use neither a GPU nor torch's thread pool, of which a fork inherits only the locks. Forks start
    at once and share the memory of what this process has imported.
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
    method: StartMethod = "fork" if fork else "spawn"
    with running([Worker(partial(prepare_worker, i), method) for i in range(number)]) as workers:
        yield list(workers)


def prepare_worker(number: int) -> None:
    """Prepare a worker process: few logs, one thread, and its own GPU if there are several."""
    logging.getLogger("mdmt").setLevel(logging.ERROR)  # the parent has logged warnings of the data
    torch.set_num_threads(1)  # until a site or a study sets the number
    if torch.cuda.is_available():
        torch.cuda.set_device(number % torch.cuda.device_count())


def _processors() -> int:
    """Return the number of processors that this process may use."""
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1


def _threads(config: FederationConfig) -> list[int]:
    return [site.threads or config.training.threads for site in config.sites.values()]
