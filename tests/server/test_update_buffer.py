"""Updates stay in memory as far as there is room, and come back whole from memory and disk."""

from __future__ import annotations

import tracemalloc

import numpy as np

from mdmt.blob import pack, unpack
from server.aggregation import weighted_mean
from server.update_buffer import UpdateBuffer


def test_what_memory_has_no_room_for_waits_in_a_file_without_a_name(tmp_path):
    buffer = UpdateBuffer(tmp_path, room=10)
    blobs = {"a": b"1234", "b": b"x" * 7, "c": b"", "d": b"123456", "e": b"y" * 9}
    for name, blob in blobs.items():
        buffer.put(name, blob)
    assert sorted(buffer._places) == ["b", "e"]
    assert list(tmp_path.iterdir()) == []
    assert {name: buffer.take(name) for name in reversed(blobs)} == blobs


def test_memory_of_a_mean_does_not_grow_with_the_number_of_sites(tmp_path):
    """An update of 0.4 MB; the sums in float64 take 0.8, and the buffer has room for one update."""

    def peak(sites):
        buffer = UpdateBuffer(tmp_path, room=410_000)
        for site in range(sites):
            buffer.put(str(site), pack({"w": np.full(100_000, site, np.float32)}))
        tracemalloc.start()
        updates = (unpack(buffer.take(str(site))) for site in range(sites))
        mean = weighted_mean((update, {"w": 1 / sites}) for update in updates)
        assert np.allclose(mean["w"], (sites - 1) / 2)
        used = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return used

    assert peak(64) <= 1.1 * peak(2)
