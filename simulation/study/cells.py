"""Cells of a study: one training run each. A cell's folder exists only when it is complete."""

import json
import shutil
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mdmt.config import FederationConfig
from mdmt.data.cohort import Cohort, open_cohort
from mdmt.errors import MDMTError, StateError
from mdmt.files import read_json, write_json, write_text
from mdmt.metrics import evaluate_task
from mdmt.results.csv_tables import write_rows
from mdmt.results.predictions import PREDICTION_COLUMNS
from mdmt.tasks import Task
from mdmt.tasks.base import FloatArray
from simulation.study.arms import ARMS
from simulation.study.bench import Bench, Outcome
from simulation.study.config import StudyConfig
from simulation.study.data import site_in_fold
from simulation.study.kinds import Arm, Backbone

FORMAT = 1


@dataclass(frozen=True)
class Cell:
    """One point of the grid.

    Attributes
    ----------
    arm, backbone
        Entries of the study.
    fold : str
        Name of the fold.
    number : int
        Its position.
    seed : int
    identity : dict of str to str
        Everything that decides its result; it is compared before a finished cell is used again.
    """

    arm: Arm
    backbone: Backbone
    fold: str
    number: int
    seed: int
    identity: Mapping[str, Any]

    def __str__(self) -> str:
        return " ".join(map(str, self.key.values()))

    @property
    def path(self) -> Path:
        """Its folder, below the study's ``cells``."""
        grid = f"fold-{self.number}", f"seed-{self.seed}"
        return Path(self.arm.label, self.backbone.label, *grid)

    @property
    def key(self) -> dict[str, Any]:
        """Its columns in tables."""
        labels = {"arm": self.arm.label, "backbone": self.backbone.label}
        return labels | {"fold": self.fold, "seed": self.seed}


def in_cell(study: StudyConfig, arm: Arm, backbone: Backbone, seed: int) -> FederationConfig:
    """The federation with the arm's changes, the backbone and the seed of a cell."""
    changes = {"seed": seed, "model": study.model(arm, backbone)}
    return study.recipe(arm).model_copy(update=changes)


def run_cell(study: StudyConfig, cell: Cell, out: Path) -> None:
    """Train and test one cell; its folder appears when everything in it is written.

    Parameters
    ----------
    study : StudyConfig
    cell : Cell
    out : Path
        The study's folder, which has the folds.

    Raises
    ------
    MDMTError
        The arm failed; the logs of its sites stay in ``failed`` until the cell is tried again.
    """
    started = time.monotonic()
    torch.set_num_threads(study.recipe(cell.arm).training.threads)
    target = out / "cells" / cell.path
    target.parent.mkdir(parents=True, exist_ok=True)
    kept = out / "failed" / cell.path
    shutil.rmtree(kept, ignore_errors=True)
    work = Path(tempfile.mkdtemp(dir=out / "cells", prefix=".work-"))
    try:
        bench = _bench(study, cell, out, work / "arm")
        outcome = ARMS[cell.arm.kind](bench)
        outcome.check(study)
        _write(work / "cell", study, cell, bench, outcome, started)
        (work / "cell").replace(target)
    except MDMTError as error:
        where = _keep_logs(work / "arm" / "run" / "sites", kept)
        raise type(error)(f"{cell}: {error}{where}") from error
    finally:
        shutil.rmtree(work, ignore_errors=True)


def read_cell(out: Path, cell: Cell) -> dict[str, Any] | None:
    """Read the ``cell.json`` of a finished cell; None if it is not finished.

    Raises
    ------
    StateError
        It was made from something else, or is damaged.
    """
    folder = out / "cells" / cell.path
    if not folder.exists():
        return None
    try:
        saved: dict[str, Any] = read_json(folder / "cell.json")
        found, *_ = (saved[key] for key in ("identity", "results", "steps", "seconds"))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise StateError(f"{folder}: is damaged: delete it and start again ({error})") from error
    wrong = [key for key in {**cell.identity, **found} if found.get(key) != cell.identity.get(key)]
    if wrong:
        raise StateError(
            f"{folder}: was made with other {', '.join(sorted(wrong))}: choose another --out, or"
            " delete it to make it anew"
        )
    return saved


def _bench(study: StudyConfig, cell: Cell, out: Path, work: Path) -> Bench:
    sites = {
        name: site_in_fold(study, site, out, cell.seed, cell.number)
        for name, site in study.federation.sites.items()
    }
    config = in_cell(study, cell.arm, cell.backbone, cell.seed)
    config = config.model_copy(update={"sites": sites})
    cohorts = {name: open_cohort(site, config) for name, site in sorted(sites.items())}
    return Bench(study, cell.arm, config, cohorts, work)


def _keep_logs(sites: Path, kept: Path) -> str:
    """Keep the sites' logs of a failed cell, and return where they are."""
    for log in sites.glob("*/site.log"):
        kept.mkdir(parents=True, exist_ok=True)
        log.replace(kept / f"{log.parent.name}.log")
    return f" (logs: {kept})" if kept.exists() else ""


def _write(
    folder: Path, study: StudyConfig, cell: Cell, bench: Bench, outcome: Outcome, started: float
) -> None:
    results, rows = [], []
    for (site, task), predictions in sorted(outcome.predictions.items()):
        space, cohort = bench.config.space(task), bench.cohorts[site]
        test = cohort.manifest.indices("test")
        metrics = evaluate_task(space, predictions, cohort.manifest.targets[task][test])
        n = metrics.pop("examples")
        results += [
            {"site": site, "task": task, "metric": name, "value": value, "n": n}
            for name, value in metrics.items()
        ]
        for row in _rows(cohort, space, task, predictions):
            rows.append(cell.key | {"site": site, "task": task} | row)
    elsewhere = []
    for (model, site, task), predictions in sorted(outcome.elsewhere.items()):
        space, manifest = bench.config.space(task), bench.cohorts[site].manifest
        found = evaluate_task(space, predictions, manifest.targets[task][manifest.indices("test")])
        key = {"model": model, "site": site, "task": task, "metric": space.primary}
        elsewhere.append(key | {"value": found[space.primary], "n": found["examples"]})
    write_rows(folder / "predictions.csv", PREDICTION_COLUMNS, rows)
    lines = (json.dumps(line, allow_nan=False) + "\n" for line in outcome.history)
    write_text(folder / "history.jsonl", "".join(lines))
    write_json(
        folder / "cell.json",
        {
            "format": FORMAT,
            **cell.key,
            "identity": dict(cell.identity),
            "results": results,
            "elsewhere": elsewhere,
            "steps": outcome.steps,
            "seconds": round(time.monotonic() - started, 3),
        },
    )


def _rows(cohort: Cohort, space: Task, task: str, predictions: FloatArray) -> list[dict[str, Any]]:
    """Return one row per labelled test image and output; for two classes only the second."""
    manifest = cohort.manifest
    test = manifest.indices("test")
    truth = space.truth(np.asarray(manifest.targets[task][test], dtype=np.float64))
    return [
        {
            "image": manifest.rows[image],
            "patient": manifest.patients[image],
            "output": space.prediction_names[output],
            "target": f"{truth[index, output]:g}",
            "prediction": repr(float(predictions[index, output])),
        }
        for index, image in enumerate(test)
        for output in space.tabled_outputs
        if np.isfinite(truth[index, output])
    ]
