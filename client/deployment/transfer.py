"""Messages between processes of this machine, without the copies of pipes and of protobuf."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Iterator
from multiprocessing.connection import Connection

from flwr.app import Array, ArrayRecord, Message, RecordDict

from client.flower import make_message, message_bytes, parse_message

__all__ = ["read_message", "write_message"]


def write_message(connection: Connection, message: Message) -> None:
    """Write a message without its arrays, then the arrays: protobuf would copy those often."""
    bare = message
    if message.has_content():
        records = dict(message.content)
        for name, record in message.content.array_records.items():
            hollow = {key: Array(a.dtype, a.shape, a.stype, b"") for key, a in record.items()}
            records[name] = ArrayRecord(hollow)
        bare = make_message(message.metadata, RecordDict(records))
    connection.send_bytes(message_bytes(bare))
    connection.send_bytes(json.dumps([len(array.data) for array in _arrays(message)]).encode())
    with socket.socket(fileno=os.dup(connection.fileno())) as line:
        for array in _arrays(message):
            line.sendall(array.data)


def read_message(connection: Connection) -> Message:
    """Read what `write_message` wrote."""
    message = parse_message(connection.recv_bytes())
    sizes = json.loads(connection.recv_bytes())
    with socket.socket(fileno=os.dup(connection.fileno())) as line:
        for array, size in zip(_arrays(message), sizes, strict=True):
            array.data = _receive(line, size)
    return message


def _receive(line: socket.socket, size: int) -> bytes:
    """Read `size` bytes into one object; a `Connection` would enlarge its buffer."""
    parts = []
    while size:
        parts.append(line.recv(size, socket.MSG_WAITALL))  # at most 2 GiB at once
        if not parts[-1]:
            raise EOFError
        size -= len(parts[-1])
    return parts[0] if len(parts) == 1 else b"".join(parts)


def _arrays(message: Message) -> Iterator[Array]:
    if message.has_content():
        for record in message.content.array_records.values():
            yield from record.values()
