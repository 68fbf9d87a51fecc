"""A federation on this machine: Flower's messages and apps, without its transport."""

from __future__ import annotations

import logging
from abc import abstractmethod
from collections.abc import Iterable, Sequence
from pathlib import Path

from flwr.app import Context, Message, RecordDict, UserConfig
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid

from client.deployment.worker import Worker
from server.flower import NodeInfo, Run, task_identity

__all__ = ["InProcessGrid", "LocalGrid", "run_inprocess", "task_identity"]

_SERVER_NODE = 1
_FIRST_SITE_NODE = 2


class LocalGrid(Grid):
    """A grid whose nodes are the sites of a federation on this machine.

    Parameters
    ----------
    run_config : mapping
        As `flwr run` would hand it to the apps.
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
        """Take a message, which has an id by now."""

    def set_run(self, run: Run) -> None:
        """Set the run."""
        self._run = run

    @property
    def run(self) -> Run:
        """The run."""
        return self._run

    def create_message(
        self,
        content: RecordDict,
        message_type: str,
        dst_node_id: int,
        group_id: str,
        ttl: float | None = None,
    ) -> Message:
        """Create a message; the `Message` constructor does the same."""
        return Message(content, dst_node_id, message_type, ttl=ttl, group_id=group_id)

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

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterable[Message]:
        """Let messages be answered."""
        waiting, replies = set(self.push_messages(messages)), list[Message]()
        while waiting and (arrived := list(self.pull_messages(waiting))):
            waiting -= {reply.metadata.reply_to_message_id for reply in arrived}
            replies += arrived
        return replies


class InProcessGrid(LocalGrid):
    """A grid whose nodes are calls of the ClientApp.

    A message is answered when its reply is pulled, one per pull, so that whoever waits sees replies
    arrive and stops in time.

    Parameters
    ----------
    app : ClientApp
    run_config : mapping
        As `flwr run` would hand it to the apps.
    n_sites : int
    """

    def __init__(self, app: ClientApp, run_config: UserConfig, n_sites: int) -> None:
        super().__init__(run_config, n_sites)
        self._app = app
        self._pending: dict[str, Message] = {}

    def queue(self, message: Message) -> None:
        """Keep a message until its reply is pulled."""
        self._pending[message.metadata.message_id] = message

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Let the next queued message be answered."""
        for message_id in message_ids:
            message = self._pending.pop(message_id, None)
            if message is not None:
                return [self._app(message, self.contexts[message.metadata.dst_node_id])]
        return []


def run_inprocess(
    config_path: Path,
    out: Path,
    n_sites: int,
    workers: Sequence[Worker] = (),
    *,
    resume: bool = False,
) -> None:
    """Run the federation of `config_path`, its server in this process.

    Parameters
    ----------
    config_path : Path
        Resolved YAML with `n_sites` sites.
    out : Path
        Run directory.
    n_sites : int
    workers : sequence of Worker
        Answer for the sites; without any, this process does.
    resume : bool
        Go on after the last complete round of the run in `out`.

    Raises
    ------
    MDMTError
        What the server raised.
    """
    from server.app import app as server_app
    from simulation.workers import WorkerGrid

    logging.getLogger("flwr").setLevel(logging.ERROR)
    run_config: UserConfig = {"federation": str(config_path), "overrides": "", "out": str(out)}
    run_config["resume"] = resume
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
