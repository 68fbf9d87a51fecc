"""The image cache: against decoding, and how fast it opens."""

from __future__ import annotations

from pathlib import Path

from benchmarks.bench import Bench, Thing
from benchmarks.processes import job
from benchmarks.rows.figures import column
from benchmarks.summary import Row, ratio, summary
from benchmarks.work import Work

__all__ = ["cache", "open_cache"]


def cache(bench: Bench) -> list[Row]:
    """Time to have images in memory: from the cache, or by pydicom without preprocessing them."""
    work = bench.work(
        Work("test_resnet", 224, sites=1, steps=1, batch=4, evaluated=2, drawn=2048), drawn=256
    )
    things = {kind: _reading(kind, work) for kind in ("pydicom", "cache")}
    found = bench.turns(things)
    decoded, cached = (column(found[kind], "image") for kind in things)
    value = ratio(decoded, cached)
    note = f"{min(decoded):.3g} ms / {min(cached):.3g} ms per image at best, both in the page cache"
    what = "decoding by pydicom / reading through the cache, 2048 px DICOM to 224 px"
    return [Row(what, value, target=50, larger_is_better=True, note=note)]


def open_cache(bench: Bench) -> list[Row]:
    """In a fresh process, as deployment starts one per message."""
    work = bench.work(
        Work("test_resnet", 64, sites=1, steps=150, batch=32, evaluated=96, drawn=64),
        steps=2,
        evaluated=8,
    )
    opened = Thing(
        lambda folder: job("jobs.open_cache", work), lambda outcome, folder: outcome.said
    )
    (found,) = bench.turns({"opening": opened}, repeats=7).values()
    images = f"{found[0]['images']} images"
    return [
        Row(f"opening a cache of {images}", summary(column(found, "cache")), "s", 0.1),
        Row(
            f"opening the cohort: table and cache of {images}",
            summary(column(found, "cohort")),
            "s",
        ),
    ]


def _reading(kind: str, work: Path) -> Thing:
    return Thing(
        lambda folder: job("jobs.pixels", kind, work),
        lambda outcome, folder: {"image": outcome.said["seconds"] * 1000},
    )
