"""A grid whose replies are sealed on their way through Flower.

Flower's SuperLink keeps messages in its database after a run. So each order carries a public key of
its own, and the site encrypts its reply with it. The private half is in the memory of this process
only, until the reply arrives or the order expires, which is the deadline of its round at the
latest: then nobody can open what the database keeps.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import Any

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from flwr.app import ConfigRecord, Error, Message, RecordDict
from flwr.serverapp import Grid

from mdmt.sealing import KEY, RECORD, new_seal, unseal
from server.flower import ErrorCode, NodeInfo, Run, make_message, parse_content


class SealedGrid(Grid):
    """A grid that adds a key to each order and opens the replies.

    Parameters
    ----------
    grid : Grid
        Sends the messages.
    """

    def __init__(self, grid: Grid) -> None:
        self._grid = grid
        self._keys: dict[str, tuple[X25519PrivateKey, float]] = {}
        """Message id → private key, and the monotonic time after which it is of no use."""

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Send messages, each with a new public key."""
        messages = list(messages)
        self._forget_expired()
        keys = []
        for message in messages:
            private, public = new_seal()
            # Messages may share one content: each one gets a content of its own.
            sealing = {RECORD: ConfigRecord({KEY: public})}
            message.content = RecordDict(dict(message.content) | sealing)
            keys.append((private, time.monotonic() + message.metadata.ttl))
        ids = self._grid.push_messages(messages)
        for message, key in zip(messages, keys, strict=True):
            self._keys[message.metadata.message_id] = key
        return ids

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Receive replies. A reply that cannot be opened becomes an error."""
        self._forget_expired()
        return [self._open(reply) for reply in self._grid.pull_messages(message_ids)]

    def _open(self, reply: Message) -> Message:
        if reply.has_error():  # Flower may have answered in the stead of a site that answers later
            return reply
        key, _ = self._keys.pop(reply.metadata.reply_to_message_id, (None, 0.0))
        try:
            if key is None:
                raise ValueError("its key is deleted")
            sealed = reply.content.array_records[RECORD][RECORD].data
            content = parse_content(unseal(sealed, key, reply.metadata.message_type))
        except KeyError:
            return _refuse(reply, "the reply is not sealed")
        except ValueError as error:
            return _refuse(reply, f"the reply cannot be opened: {error}")
        return make_message(reply.metadata, content)

    def _forget_expired(self) -> None:
        now = time.monotonic()
        self._keys = {name: key for name, key in self._keys.items() if key[1] > now}

    def get_nodes(self) -> Iterable[NodeInfo]:
        """Connected nodes."""
        return self._grid.get_nodes()

    def get_node_ids(self) -> Iterable[int]:
        """Ids of the connected nodes."""
        return self._grid.get_node_ids()

    def set_run(self, run: Run) -> None:
        """Set the run."""
        self._grid.set_run(run)

    @property
    def run(self) -> Run:
        """The run."""
        return self._grid.run

    def create_message(self, *args: Any, **kwargs: Any) -> Message:
        """Not used: our ServerApp calls the `Message` constructor."""
        raise NotImplementedError

    def send_and_receive(self, *args: Any, **kwargs: Any) -> Iterable[Message]:
        """Not used: our ServerApp pushes and pulls messages."""
        raise NotImplementedError


def _refuse(reply: Message, why: str) -> Message:
    return make_message(reply.metadata, error=Error(ErrorCode.CLIENT_APP_RAISED_EXCEPTION, why))
