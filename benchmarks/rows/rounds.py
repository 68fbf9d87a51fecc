"""What a round costs when training costs next to nothing."""

from __future__ import annotations

from dataclasses import replace

from benchmarks.bench import Bench
from benchmarks.ours import PARALLEL, has_workers, simulate
from benchmarks.ours import deployment as our_deployment
from benchmarks.rows.figures import column, pair_row, stock
from benchmarks.summary import Row, summary
from benchmarks.work import Work

__all__ = ["deployment", "rounds"]

_WORK = Work("resnet18", 32, steps=1, batch=2, evaluated=2)
"""Ours trains one step on two images, which is taken off; stock Flower trains no step."""


def rounds(bench: Bench) -> list[Row]:
    """In this process, in Ray, and stock Flower in Ray: 45 MB, two sites."""
    number = 3 if bench.quick else 8
    work = bench.work(_WORK)
    length = ("--set", f"training.rounds={number}")
    things = {
        "in process": simulate(work, *length),
        "Ray": simulate(work, *length, "--engine", "ray"),
        "stock Flower simulation": stock("simulation", work, number, 0),
    }
    if has_workers():
        things["2 workers"] = simulate(work, *length, *PARALLEL)
    found = bench.turns(things)
    ours, ray, theirs = list(found.values())[:3]
    theirs = [run | {"idle": run["round"]} for run in theirs]
    what = "seconds per round without training, resnet18, 2 sites"
    rows = [
        Row(f"{what}, in process", summary(column(ours, "idle")), "s", 0.15),
        pair_row(f"{what}: in process / stock Flower simulation", ours, theirs, "idle", 0.3),
        pair_row(f"{what}: Ray / stock Flower simulation", ray, theirs, "idle", 1.0),
    ]
    if has_workers():
        idle = summary(column(found["2 workers"], "idle"))
        rows.append(Row(f"{what}, in process, 2 workers", idle, "s"))
    return rows


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
    theirs = [run | {"idle": run["round"]} for run in theirs]
    what = "seconds per round without training: deployment / stock Flower deployment"
    return [pair_row(what, ours, theirs, "idle", 0.6, "ours one phase, stock two")]
