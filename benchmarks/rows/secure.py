"""What secure aggregation costs: seconds and bytes of a round."""

from __future__ import annotations

from benchmarks.bench import Bench
from benchmarks.ours import simulate
from benchmarks.rows.figures import pair_row
from benchmarks.summary import Row
from benchmarks.work import Work

__all__ = ["secure"]

_ROUNDS = {3: 4, 10: 3, 50: 2}
"""By number of sites. The first round does not count."""
_FROZEN = ("--set", "aggregation.norm_layers=frozen")
"""Secure aggregation cannot average running statistics."""
_SECURE = (*_FROZEN, "--set", "privacy.secure_aggregation=true")


def secure(bench: Bench) -> list[Row]:
    """In process: eight steps of 32 images of 64 px at each site, with and without masks.

    All sites share this process, so a round makes sites·(sites - 1) key streams of 45 MB. In a
    deployment each site makes sites - 1.
    """
    rows = []
    for sites, rounds in ({3: 2} if bench.quick else _ROUNDS).items():
        work = bench.work(Work("resnet18", 64, sites, rounds), side=32, steps=1, batch=2)
        found = bench.turns(
            {f"plain, {sites} sites": simulate(work, *_FROZEN)}
            | {f"secure, {sites} sites": simulate(work, *_SECURE)},
            1 if sites > 10 else None,
        )
        plain, masked = found.values()
        what = f"secure aggregation / plain, resnet18, {sites} sites, in process"
        target = 1.5 if sites == 10 else None
        rows += [
            pair_row(f"seconds per round: {what}", masked, plain, "round", target),
            pair_row(f"bytes per round: {what}", masked, plain, "bytes", 1.1),
        ]
    return rows
