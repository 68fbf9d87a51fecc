"""A federation in this very process: Flower's messages and apps, without its transport."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from flwr.app import Context, Message, RecordDict, UserConfig
from flwr.clientapp import ClientApp
from flwr.proto.node_pb2 import NodeInfo
from flwr.serverapp import Grid
from flwr.supercore.run import Run
from flwr.supercore.task_identity import TaskIdentity

__all__ = ["InProcessGrid", "run_inprocess", "task_identity"]

_SERVER_NODE = 1
_FIRST_SITE_NODE = 2


class InProcessGrid(Grid):
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
        self._app = app
        self._run = Run.create_empty(run_id=1)
        self._pending: dict[str, Message] = {}
        self._sent = 0
        self._contexts = {
            _FIRST_SITE_NODE + i: Context(
                run_id=1,
                node_id=_FIRST_SITE_NODE + i,
                node_config={"partition-id": i, "num-partitions": n_sites},
                state=RecordDict(),
                run_config=dict(run_config),
            )
            for i in range(n_sites)
        }

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
        return list(self._contexts)

    def get_nodes(self) -> Iterable[NodeInfo]:
        """Nodes of the sites."""
        return [NodeInfo(node_id=node) for node in self._contexts]

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Queue messages."""
        ids = []
        for message in messages:
            self._sent += 1
            message.metadata.__dict__["_message_id"] = f"message-{self._sent}"
            self._pending[message.metadata.message_id] = message
            ids.append(message.metadata.message_id)
        return ids

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Let the next queued message be answered."""
        for message_id in message_ids:
            message = self._pending.pop(message_id, None)
            if message is not None:
                return [self._app(message, self._contexts[message.metadata.dst_node_id])]
        return []

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterable[Message]:
        """Answer all messages."""
        return [
            reply for one in self.push_messages(messages) for reply in self.pull_messages([one])
        ]


@contextmanager
def task_identity() -> Iterator[None]:
    """Let `Message` be made outside a Flower process (it asks a private class who is sending)."""
    before = TaskIdentity._task_id, TaskIdentity._run_id, TaskIdentity._node_id
    TaskIdentity.task_id, TaskIdentity.run_id, TaskIdentity.node_id = 1, 1, _SERVER_NODE
    try:
        yield
    finally:
        TaskIdentity._task_id, TaskIdentity._run_id, TaskIdentity._node_id = before


def run_inprocess(config_path: Path, out: Path, n_sites: int, *, resume: bool = False) -> None:
    """Run the federation of `config_path` here and now.

    Parameters
    ----------
    config_path : Path
        Resolved YAML with `n_sites` sites.
    out : Path
        Run directory.
    n_sites : int
    resume : bool
        Go on after the last complete round of the run in `out`.

    Raises
    ------
    MDMTError
        What the server raised.
    """
    from client.app import app as client_app
    from server.app import app as server_app

    logging.getLogger("flwr").setLevel(logging.ERROR)
    run_config: UserConfig = {"federation": str(config_path), "overrides": "", "out": str(out)}
    run_config["resume"] = resume
    server = Context(
        run_id=1, node_id=_SERVER_NODE, node_config={}, state=RecordDict(), run_config=run_config
    )
    with task_identity():
        server_app(InProcessGrid(client_app, run_config, n_sites), server)
