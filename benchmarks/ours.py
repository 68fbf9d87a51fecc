"""Our commands, what they can do, and what a run directory tells of its rounds."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from statistics import median

from safetensors import safe_open

from benchmarks.bench import Figures, Thing
from benchmarks.processes import MDMT, Outcome, job
from benchmarks.work import CONFIG
from mdmt.cli.run import simulate as _simulate_command
from mdmt.config import FederationConfig
from mdmt.results.runs import read_lines

__all__ = ["PARALLEL", "WIRES", "deployment", "has_wires", "has_workers", "simulate"]

PARALLEL = ("--workers", "2")
"""Gives `mdmt simulate` a worker per site."""
_SERIAL = (PARALLEL[0], "1")
WIRES = {
    "float32": (),
    "float16": ("--set", "wire.up=float16", "--set", "wire.down=float16"),
    "int8": ("--set", "wire.up=int8", "--set", "wire.down=float16"),
}
"""Options of `mdmt simulate` by what travels both ways."""


def has_workers() -> bool:
    """Whether `mdmt simulate` offers `PARALLEL`."""
    name = PARALLEL[0].removeprefix("--").replace("-", "_")
    return name in inspect.signature(_simulate_command).parameters


def has_wires() -> bool:
    """Whether a federation can choose what travels."""
    return "wire" in FederationConfig.model_fields


def simulate(work: Path, *options: str) -> Thing:
    """`mdmt simulate` of a prepared work: by one worker, unless the options say otherwise."""
    if has_workers() and "ray" not in options and PARALLEL[0] not in options:
        options += _SERIAL
    return Thing(
        lambda folder: [
            *(MDMT, "simulate", str(work / CONFIG), "--out", str(folder / "run")),
            *options,
        ],
        lambda outcome, folder: _figures(outcome, folder / "run"),
    )


def deployment(work: Path) -> Thing:
    """`mdmt provision`, `server start`, `site start` and `server run` of a prepared work."""
    return Thing(
        lambda folder: job("jobs.deployment", work, folder / "run"),
        lambda outcome, folder: _figures(outcome, folder / "run"),
    )


def _figures(outcome: Outcome, run: Path) -> Figures:
    """Read the figures of a run directory. ``round`` does not count the first round."""
    events = read_lines(run / "events.jsonl")
    starts = [e["time"] for e in events if e["event"] == "round"]
    over = next(e["time"] for e in events if e["event"] == "evaluate")
    seconds = [b - a for a, b in pairwise([*starts, over])][1:]
    lines = [line for line in read_lines(run / "history.jsonl") if line["round"] > 1]
    return {
        "seconds": outcome.seconds,
        "peak": outcome.peak,
        "memory": outcome.memory,
        "start": starts[0] - outcome.started,
        "starts": [*starts, over],
        **({"round": median(seconds)} if seconds else {}),
        "bytes": _bytes(lines),
        "bits": _digest(max((run / "checkpoints").glob("round-*.safetensors"))),
    }


def _digest(checkpoint: Path) -> str:
    """Of its arrays: the file also tells which run it is of."""
    with safe_open(checkpoint, framework="np") as file:
        return str((file.metadata() or {})["digest"])


def _bytes(lines: Sequence[dict[str, dict[str, dict[str, int]]]]) -> float:
    """Bytes down and up per site and round."""
    sites = [site for line in lines for site in line["sites"].values() if "bytes_up" in site]
    return median([site["bytes_down"] + site["bytes_up"] for site in sites]) if sites else 0.0
