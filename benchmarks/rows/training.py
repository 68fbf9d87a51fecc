"""What a site's round and its data path add to the bare loop."""

from __future__ import annotations

from benchmarks.bench import Bench, Thing
from benchmarks.processes import job
from benchmarks.rows.figures import bare, pair_row, rounds_of
from benchmarks.summary import Row
from benchmarks.work import Work

__all__ = ["loader", "private_round", "site_round"]

_MODELS = {"resnet18": (8, 16), "test_resnet": (32, 32)}
"""Steps of a round, and images of a step."""
_TINY = {"side": 32, "steps": 2, "batch": 4, "evaluated": 4, "rounds": 2}


def site_round(bench: Bench) -> list[Row]:
    """Message in, reply out, at one site; the bare loop validates and trains the same."""
    rows = []
    for backbone, (steps, batch) in _MODELS.items():
        work = bench.work(Work(backbone, 128, 1, 2, steps, batch, drawn=128), **_TINY)
        found = bench.turns(
            {"site round": _rounds("site_round", work), "bare loop": bare(work, "1")}
        )
        what = f"site round / bare loop, {backbone} at 128 px"
        rows.append(pair_row(what, found["site round"], found["bare loop"], "round", 1.03))
    return rows


def loader(bench: Bench) -> list[Row]:
    """An epoch of the training loop from the cache; the bare loop augments tensors in memory."""
    rows = []
    for backbone, (steps, batch) in _MODELS.items():
        work = bench.work(
            Work(backbone, 128, 1, 1, steps, batch, augmented=True, drawn=128), **_TINY
        )
        kinds = ("loader", "memory")
        found = bench.turns({kind: _rounds("epochs", kind, work) for kind in kinds})
        what = f"epoch through the loader / from memory, augmented, {backbone} at 128 px"
        rows.append(pair_row(what, found["loader"], found["memory"], "round", 1.05))
    return rows


def private_round(bench: Bench) -> list[Row]:
    """A round with differential privacy, and the same round without."""
    rows = []
    for backbone, (steps, batch) in _MODELS.items():
        kinds = {"private": True, "plain": False}
        found = bench.turns(
            {
                kind: _rounds(
                    "site_round",
                    bench.work(
                        Work(backbone, 128, 1, 2, steps, batch, 4, drawn=128, private=private),
                        **_TINY,
                    ),
                )
                for kind, private in kinds.items()
            }
        )
        what = f"DP step / plain step, {backbone} at 128 px"
        rows.append(pair_row(what, found["private"], found["plain"], "round", None))
    return rows


def _rounds(name: str, *arguments: object) -> Thing:
    return Thing(lambda folder: job(f"jobs.{name}", *arguments), rounds_of)
