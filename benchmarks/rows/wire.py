"""Bytes of a round."""

from __future__ import annotations

from benchmarks.bench import Bench
from benchmarks.ours import WIRES, has_wires, simulate
from benchmarks.rows.figures import pair_row, stock
from benchmarks.summary import Row
from benchmarks.work import Work

__all__ = ["wire"]

_PART = ("--set", "model.trainable={last_blocks: 1}")
_TARGETS = {"float32": 1.0, "float16": 0.51, "int8": 0.4}


def wire(bench: Bench) -> list[Row]:
    """Down and up per site and round, against the train messages of stock FedAvg alone.

    They are the same in every run of a configuration, so one is enough. float16 is both ways; int8
    is upwards, with float16 downwards. The last row trains the last of the eight blocks only.
    """
    work = bench.work(Work("resnet18", 32, rounds=3, steps=1, batch=2, evaluated=2))
    built = [name for name in WIRES if name == "float32" or has_wires()]
    things = {name: simulate(work, *WIRES[name]) for name in built}
    things["part"] = simulate(work, *_PART)
    found = bench.turns(things | {"stock": stock("simulation", work, 2, 0)}, repeats=1)
    rows = []
    for name, target in _TARGETS.items():
        what = f"bytes per round / stock FedAvg's train messages in float32: {name}"
        if name in found:
            rows.append(pair_row(what, found[name], found["stock"], "bytes", target, "resnet18"))
        else:
            rows.append(Row(what, None, target=target, note="not built"))
    what = "bytes per round of model.trainable {last_blocks: 1} / of the whole backbone"
    rows.append(pair_row(what, found["part"], found["float32"], "bytes", None, "resnet18"))
    return rows
