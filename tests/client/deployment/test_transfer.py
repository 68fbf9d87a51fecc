"""Messages between processes of a machine: whole, or not at all."""

from __future__ import annotations

import multiprocessing
import threading

import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MessageType, RecordDict

from client import flower
from client.flower import read_message, write_message
from simulation.engine import task_identity


@pytest.fixture
def message():
    blobs = {"none": b"", "few": b"abc", "many": bytes(range(256)) * 40_000}  # 10 MB
    arrays = ArrayRecord({k: Array("uint8", (len(v),), "blob", v) for k, v in blobs.items()})
    with task_identity():
        content = RecordDict({"arrays": arrays, "config": ConfigRecord({"order": "train"})})
        yield Message(content, 7, MessageType.TRAIN)


def test_a_message_comes_out_as_it_went_in_and_others_after_it(message):
    ours, theirs = multiprocessing.Pipe()
    writer = threading.Thread(target=lambda: [write_message(ours, message) for _ in range(2)])
    writer.start()
    for _ in range(2):
        got = read_message(theirs)
        assert got.content.config_records == message.content.config_records
        sent = message.content.array_records["arrays"]
        assert {k: a.data for k, a in got.content.array_records["arrays"].items()} == {
            k: a.data for k, a in sent.items()
        }
        assert got.metadata.dst_node_id == 7
    writer.join(10)
    assert not writer.is_alive()


def test_a_blob_that_comes_in_parts_is_put_together():
    class Line:
        left = b"abcdefgh"

        def recv(self, size, flags):
            part, self.left = self.left[: min(size, 3)], self.left[min(size, 3) :]
            return part

    assert flower._receive(Line(), 8) == b"abcdefgh"
    with pytest.raises(EOFError):
        flower._receive(Line(), 9)


def test_half_a_message_is_the_end_of_the_other_process(message):
    ours, theirs = multiprocessing.Pipe()

    def break_off():
        head = message.content.array_records["arrays"]
        head["many"].data = head["many"].data[:1000]
        write_message(ours, message)
        ours.close()

    sizes = "[0, 3, 2000]"
    original = ours.send_bytes
    ours.send_bytes = lambda data: original(sizes.encode() if data[:1] == b"[" else data)
    writer = threading.Thread(target=break_off)
    writer.start()
    with pytest.raises(EOFError):
        read_message(theirs)
    writer.join(10)
