"""Many sites, many rounds."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from benchmarks.bench import Bench, Figures
from benchmarks.ours import simulate
from benchmarks.rows.figures import column, pair_row
from benchmarks.summary import Row, growth, summary
from benchmarks.work import Work

__all__ = ["aggregation", "scale", "scale_ray"]

_WARM = 10
"""Rounds before memory is looked at."""


def aggregation(bench: Bench) -> list[Row]:
    """Peak memory of the whole process with many replies of 45 MB against two."""
    many, few = 4 if bench.quick else 64, 2
    works = {
        sites: bench.work(Work("resnet18", 32, sites, rounds=2, steps=1, batch=2, evaluated=1))
        for sites in (few, many)
    }
    found = bench.turns({f"{sites} sites": simulate(work) for sites, work in works.items()}, 1)
    two, all_ = found.values()
    what = f"peak memory of aggregation over {many} sites / over {few}, resnet18"
    return [pair_row(what, all_, two, "peak", 1.1, "whole process")]


def scale(bench: Bench) -> list[Row]:
    """A tiny model in process: what a site costs a round, and whether memory grows."""
    rows = _per_site(bench, {2: 40, 16: 10, 64: 4, 256: 3}, "in process", 1.2)
    return [*rows, _growth(bench, "in process", 16)]


def scale_ray(bench: Bench) -> list[Row]:
    """The same in Ray."""
    rows = _per_site(bench, {2: 10, 16: 4, 64: 3, 256: 3}, "Ray", None, "--engine", "ray")
    return [*rows, _growth(bench, "Ray", 2, "--engine", "ray")]


def _per_site(
    bench: Bench, lengths: dict[int, int], engine: str, target: float | None, *options: str
) -> list[Row]:
    """Seconds per site and round of the larger federations against that of the smallest."""
    if bench.quick:
        lengths = {2: 3, 4: 3}
    things = {
        f"{sites} sites, {engine}": simulate(_tiny(bench, sites, rounds), *options)
        for sites, rounds in lengths.items()
    }
    found = bench.turns(things, 1)
    sites = list(lengths)
    each = [
        [run | {"site": run["round"] / n} for run in runs]
        for n, runs in zip(sites, found.values(), strict=True)
    ]
    what = "cost per site-round, test_resnet, {}: {} sites / {}"
    whole = "seconds per round of one step, test_resnet, {}: {} sites"
    last = sites[-1]
    rows = [
        Row(whole.format(engine, n), summary(column(runs, "round")), "s")
        for n, runs in zip(sites, each, strict=True)
    ]
    return rows + [
        pair_row(
            what.format(engine, n, sites[0]), runs, each[0], "site", target if n == last else None
        )
        for n, runs in zip(sites[1:], each[1:], strict=True)
    ]


def _growth(bench: Bench, engine: str, sites: int, *options: str) -> Row:
    """Memory of the last of 50 rounds against the first of them, after a warm-up."""
    warm, rounds = (2, 8) if bench.quick else (_WARM, _WARM + 50)
    thing = simulate(_tiny(bench, sites, rounds), *options)
    (found,) = bench.turns({f"{rounds} rounds, {engine}": thing}, 1).values()
    what = f"memory growth over {rounds - warm} rounds, {sites} sites, test_resnet, {engine}"
    target = 2.0 if engine == "in process" else None
    try:
        values = _growths(found, warm)
    except ValueError as error:
        return Row(what, None, "%", target, note=str(error))
    return Row(what, summary(values), "%", target)


def _growths(found: Sequence[Figures], warm: int) -> list[float]:
    return [100 * growth(run["memory"], run["starts"][warm], run["starts"][-1]) for run in found]


def _tiny(bench: Bench, sites: int, rounds: int) -> Path:
    return bench.work(Work("test_resnet", 32, sites, rounds, 1, 4, 2))
