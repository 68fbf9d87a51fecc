"""How long a user waits before anything happens."""

from __future__ import annotations

from pathlib import Path

import yaml

from benchmarks.bench import Bench, Figures, Thing
from benchmarks.ours import simulate
from benchmarks.processes import MDMT, Outcome
from benchmarks.processes import job as job_command
from benchmarks.rows.figures import column, pair_row
from benchmarks.summary import Row, summary
from benchmarks.work import CONFIG, Work
from mdmt.files import write_text

__all__ = ["cli", "startup"]


def startup(bench: Bench) -> list[Row]:
    """From the shell's prompt to round 1; nobody is faster than importing torch and timm."""
    work = bench.work(Work("resnet18", 64), side=32, steps=2, batch=4, evaluated=4)
    backbone = str(yaml.safe_load((work / CONFIG).read_text())["model"]["backbone"])
    imports = Thing(
        lambda folder: job_command("jobs.imports", backbone),
        lambda outcome, folder: {"start": outcome.seconds},
    )
    short = ("--set", "training.rounds=1", "--set", "training.local_steps=1")
    found = bench.turns({"start-up": simulate(work, *short), "imports": imports}, repeats=5)
    what = "start-up to round 1, in process / importing torch and timm and building the model"
    return [pair_row(what, found["start-up"], found["imports"], "start", 1.2)]


def cli(bench: Bench) -> list[Row]:
    """``mdmt --help``, and ``mdmt validate`` of a coordinator's file: no site, no data."""
    work = bench.work(Work("test_resnet", 32, steps=1, batch=2, evaluated=2))
    coordinators = bench.scratch / "coordinator.yaml"
    settings = yaml.safe_load((work / CONFIG).read_text()) | {"sites": {}}
    write_text(coordinators, yaml.safe_dump(settings))

    def seconds(outcome: Outcome, folder: Path) -> Figures:
        return {"seconds": outcome.seconds}

    found = bench.turns(
        {
            "mdmt --help": Thing(lambda folder: [MDMT, "--help"], seconds),
            "mdmt validate": Thing(lambda folder: [MDMT, "validate", str(coordinators)], seconds),
            "mdmt validate, 2 sites": Thing(
                lambda folder: [MDMT, "validate", str(work / CONFIG)], seconds
            ),
        },
        repeats=7,
    )
    targets = {"mdmt --help": 0.3, "mdmt validate": 1.0}
    return [
        Row(name, summary(column(runs, "seconds")), "s", targets.get(name))
        for name, runs in found.items()
    ]
