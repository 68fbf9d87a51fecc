"""Run a federation on this machine with Flower's messages and apps, without its transport."""

from __future__ import annotations

import logging
import time
from abc import abstractmethod
from collections import deque
from collections.abc import Iterable, Sequence
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

from flwr.app import Context, Error, Message, RecordDict, UserConfig
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid

from client.deployment.worker import Worker
from mdmt.errors import RunError
from server.flower import NodeInfo, Run, task_identity

log = logging.getLogger(__name__)

SITE_FAILED = 2
"""Flower's code for a client that raised an error: an answer of the site."""
_SERVER_NODE = 1
_FIRST_SITE_NODE = 2


class LocalGrid(Grid):
    """A grid whose nodes are the sites of a federation on this machine.

    Parameters
    ----------
    run_config : mapping
        The run configuration that `flwr run` would give to the apps.
    n_sites : int
    """

    def __init__(self, run_config: UserConfig, n_sites: int) -> None:
        self._run = Run.create_empty(run_id=1)
        self._sent = 0
        self.contexts = {
            _FIRST_SITE_NODE + i: Context(
                run_id=1,
                node_id=_FIRST_SITE_NODE + i,
                node_config={"partition-id": i, "num-partitions": n_sites},
                state=RecordDict(),
                run_config=dict(run_config),
            )
            for i in range(n_sites)
        }

    @abstractmethod
    def queue(self, message: Message) -> None:
        """Queue a message with an id."""

    def set_run(self, run: Run) -> None:
        """Set the run."""
        self._run = run

    @property
    def run(self) -> Run:
        """The run."""
        return self._run

    def create_message(self, *args: Any, **kwargs: Any) -> Message:
        """Not used: our ServerApp calls the `Message` constructor."""
        raise NotImplementedError

    def send_and_receive(self, *args: Any, **kwargs: Any) -> Iterable[Message]:
        """Not used: our ServerApp pushes and pulls messages."""
        raise NotImplementedError

    def get_node_ids(self) -> Iterable[int]:
        """Node ids of the sites."""
        return list(self.contexts)

    def get_nodes(self) -> Iterable[NodeInfo]:
        """Nodes of the sites."""
        return [NodeInfo(node_id=node) for node in self.contexts]

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Queue messages."""
        ids = []
        for message in messages:
            self._sent += 1
            message.metadata.__dict__["_message_id"] = f"message-{self._sent}"
            self.queue(message)
            ids.append(message.metadata.message_id)
        return ids


class InProcessGrid(LocalGrid):
    """A grid whose nodes are calls of the ClientApp.

    Each pull answers one message, so that the caller gets replies one by one and can stop in time.

    Parameters
    ----------
    app : ClientApp
    run_config : mapping
        The run configuration that `flwr run` would give to the apps.
    n_sites : int
    """

    def __init__(self, app: ClientApp, run_config: UserConfig, n_sites: int) -> None:
        super().__init__(run_config, n_sites)
        self._app = app
        self._pending: dict[str, Message] = {}

    def queue(self, message: Message) -> None:
        """Store a message until its reply is pulled."""
        self._pending[message.metadata.message_id] = message

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Let the site answer the next queued message."""
        for message_id in message_ids:
            message = self._pending.pop(message_id, None)
            if message is not None:
                return [self._app(message, self.contexts[message.metadata.dst_node_id])]
        return []


class WorkerGrid(LocalGrid):
    """A grid in which worker processes answer for the nodes.

    Site i belongs to worker i modulo the number of workers, so that a worker keeps the images and
    the model of its sites. A worker has one message at a time. The other messages wait here, and a
    message after its deadline is dropped. If a worker dies, a new one gets the same message once
    more: the site starts from the same files, so the result has the same bits.

    Parameters
    ----------
    workers : sequence of Worker
    run_config : mapping
        The run configuration that `flwr run` would give to the apps.
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
        self._repeated: set[str] = set()

    def queue(self, message: Message) -> None:
        """Give a message to its worker, or queue it if the worker is busy."""
        worker = self._workers[message.metadata.dst_node_id]
        self._queues[worker].append(message)
        self._employ(worker)

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Wait for replies until one has arrived or none can arrive in time."""
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
        """Give a free worker the next message before its deadline."""
        queue = self._queues[worker]
        while queue and worker not in self._working:
            message = queue.popleft()
            if _left(message) > 0:
                try:
                    worker.send(message, self.contexts[message.metadata.dst_node_id])
                    self._working[worker] = message
                except RunError as death:
                    self._repeat(worker, message, death)

    def _collect(self, worker: Worker) -> None:
        """Read the reply of a worker, or its death, and give it the next message."""
        message = self._working.pop(worker)
        try:
            self._note(message, worker.receive())
        except RunError as death:
            self._repeat(worker, message, death)
        self._employ(worker)

    def _repeat(self, worker: Worker, message: Message, death: RunError) -> None:
        """Queue the message of a worker that died again; a second death is its reply."""
        number = message.metadata.message_id
        if number in self._repeated:
            self._note(message, Message(Error(SITE_FAILED, str(death)), reply_to=message))
            return
        log.warning("%s; a new process repeats the same order", death)
        self._repeated.add(number)
        self._queues[worker].appendleft(message)

    def _note(self, message: Message, reply: Message) -> None:
        if _left(message) > 0:
            self._replies[message.metadata.message_id] = reply


def run_inprocess(
    config_path: Path,
    out: Path,
    n_sites: int,
    workers: Sequence[Worker] = (),
    *,
    resume: bool = False,
) -> None:
    """Run the federation of `config_path` with the server in this process.

    Parameters
    ----------
    config_path : Path
        Resolved YAML with `n_sites` sites.
    out : Path
        Run directory.
    n_sites : int
    workers : sequence of Worker
        Processes that answer for the sites. The default is this process.
    resume : bool
        Continue after the last complete round of the run in `out`.

    Raises
    ------
    MDMTError
        The error of the server.
    """
    from server.app import app as server_app

    logging.getLogger("flwr").setLevel(logging.ERROR)
    run_config: UserConfig = {"federation": str(config_path), "out": str(out), "resume": resume}
    server = Context(
        run_id=1, node_id=_SERVER_NODE, node_config={}, state=RecordDict(), run_config=run_config
    )
    grid: Grid
    if workers:
        grid = WorkerGrid(workers, run_config, n_sites)
    else:
        from client.app import app as client_app

        grid = InProcessGrid(client_app, run_config, n_sites)
    with task_identity():
        server_app(grid, server)


def _left(message: Message) -> float:
    """Return the seconds until the deadline of a message."""
    return message.metadata.created_at + message.metadata.ttl - time.time()
