"""What a round costs when training costs next to nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from benchmarks.bench import Bench, Figures
from benchmarks.ours import PARALLEL, has_workers, simulate
from benchmarks.ours import deployment as our_deployment
from benchmarks.rows.figures import bare, column, pair_row, stock
from benchmarks.summary import Row, summary
from benchmarks.work import Work

__all__ = ["deployment", "rounds"]

_WORK = Work("resnet18", 32, steps=1, batch=2, evaluated=2)
"""MDMT trains one step on two images. Stock Flower trains no step."""


def rounds(bench: Bench) -> list[Row]:
    """In this process, in Ray, and stock Flower in Ray: 45 MB, two sites."""
    number = 3 if bench.quick else 8
    work = bench.work(_WORK)
    length = ("--set", f"training.rounds={number}")
    things = {
        "bare loop": bare(work, "1"),
        "in process": simulate(work, *length),
        "Ray": simulate(work, *length, "--engine", "ray"),
        "stock Flower simulation": stock("simulation", work, number, 0),
    }
    if has_workers():
        things["2 workers"] = simulate(work, *length, *PARALLEL)
    found = bench.turns(things)
    training = [run["round"] for run in found["bare loop"]]
    ours = _without(found["in process"], training)
    # Two sites that train at the same time need half of the time of the bare loop.
    halves = [seconds / 2 for seconds in training]
    ray, theirs = _without(found["Ray"], halves), found["stock Flower simulation"]
    what = "seconds per round without training, resnet18, 2 sites"
    rows = [
        Row(f"{what}, in process", summary(column(ours, "round")), "s", 0.15),
        pair_row(f"{what}: in process / stock Flower simulation", ours, theirs, "round", 0.3),
        pair_row(f"{what}: Ray / stock Flower simulation", ray, theirs, "round", 1.0),
    ]
    if has_workers():
        parallel = _without(found["2 workers"], halves)
        rows.append(Row(f"{what}, in process, 2 workers", summary(column(parallel, "round")), "s"))
    return rows


def _without(runs: list[Figures], training: Sequence[float]) -> list[Figures]:
    """Subtract from each round the time in which the bare loop trains and validates the same."""
    return [
        run | {"round": run["round"] - seconds} for run, seconds in zip(runs, training, strict=True)
    ]


def deployment(bench: Bench) -> list[Row]:
    """SuperLink, SuperNodes and a process per message, on the loopback; ours with TLS and keys."""
    number = 2 if bench.quick else 3
    work = bench.work(replace(_WORK, rounds=number))
    found = bench.turns(
        {
            "deployment": our_deployment(work),
            "stock Flower deployment": stock("deployment", work, number, 0),
        },
        repeats=2,
    )
    ours, theirs = found.values()
    what = "seconds per round of one step: deployment / stock Flower deployment without a step"
    return [pair_row(what, ours, theirs, "round", 0.6, "ours one phase, stock two")]
