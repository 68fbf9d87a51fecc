"""A whole command: 2 sites, 5 rounds, 8 SGD steps each of resnet18 at 64 px."""

from __future__ import annotations

from benchmarks.bench import Bench
from benchmarks.ours import PARALLEL, has_workers, simulate
from benchmarks.rows.figures import bare, pair_row, stock
from benchmarks.summary import Row
from benchmarks.work import Work

__all__ = ["job"]


def job(bench: Bench) -> list[Row]:
    """From the shell's prompt to the next one, imports and release included."""
    work = bench.work(Work("resnet18", 64), side=32, rounds=2, steps=2, batch=4, evaluated=4)
    rounds, steps = (2, 2) if bench.quick else (5, 8)
    things = {
        "bare loop, 1 thread": bare(work, "1"),
        "mdmt simulate": simulate(work),
        **({"mdmt simulate, 2 workers": simulate(work, *PARALLEL)} if has_workers() else {}),
        "bare loop, torch's threads": bare(work),
    }
    found = bench.turns(things)
    one, ours = (found[name] for name in list(things)[:2])
    # For orientation, once: it takes as long as the others together.
    flower = bench.turns({"stock Flower simulation": stock("simulation", work, rounds, steps)}, 1)
    (theirs,) = flower.values()
    default = found["bare loop, torch's threads"]
    threads = f"{default[0]['threads']} threads"
    rows = [
        pair_row("whole command / bare loop, 1 thread each", ours, one, "seconds", 1.03),
        pair_row(
            "whole command / bare loop of torch's threads", ours, default, "seconds", None, threads
        ),
        pair_row("whole command's peak memory / the bare loop's", ours, one, "peak", 1.6),
    ]
    parallel = "whole command, 2 workers / bare loop, 1 thread"
    if has_workers():
        two = found["mdmt simulate, 2 workers"]
        same = {run["bits"] for run in two} == {run["bits"] for run in ours}
        if not same:
            return [*rows, Row(parallel, None, target=0.65, note="other bits than one worker")]
        rows += [
            pair_row(parallel, two, one, "seconds", 0.65, "same bits as one worker"),
            pair_row(
                "whole command, 2 workers / bare loop of torch's threads",
                two,
                default,
                "seconds",
                None,
                threads,
            ),
            pair_row("peak memory with 2 workers / the bare loop's", two, one, "peak", 1.6),
        ]
    else:
        rows.append(Row(parallel, None, target=0.65, note="not built"))
    return [
        *rows,
        pair_row(
            "stock Flower simulation / bare loop, 1 thread", theirs, one[-1:], "seconds", None
        ),
        pair_row(
            "stock Flower simulation's peak memory / the bare loop's",
            theirs,
            one[-1:],
            "peak",
            None,
        ),
    ]
