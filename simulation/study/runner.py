"""Running a study: every cell that is not finished yet, then the tables of all."""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch

from mdmt.config import save_config
from mdmt.errors import BadInput, MDMTError, RunError
from mdmt.models import build_model
from mdmt.training import resolve_device
from server.run import versions
from simulation.study.cells import FORMAT, Cell, Finished, in_cell, read_cell
from simulation.study.config import StudyConfig, load_study
from simulation.study.data import StudyData, Watch, open_data
from simulation.study.folds import Fold
from simulation.study.kinds import Arm, Backbone, Metadata
from simulation.study.metadata import check_columns, has_columns
from simulation.study.tables import TABLES, write_tables
from simulation.study.workers import run_cells

__all__ = ["default_workers", "plan_cells", "run_study"]


def run_study(
    study: StudyConfig,
    out: Path,
    *,
    workers: int,
    watch: Watch = lambda site, done, n: None,
    on_plan: Callable[[Sequence[Finished], Sequence[Cell]], None] = lambda finished, cells: None,
    on_cell: Callable[[Finished], None] = lambda finished: None,
    on_fail: Callable[[Cell, MDMTError], None] = lambda cell, error: None,
) -> list[Finished]:
    """Run a study, or go on with one that was interrupted.

    Parameters
    ----------
    study : StudyConfig
    out : Path
        A new or empty folder, or that of the same study.
    workers : int
        Cells at a time, each in a process of its own; 0 runs them in this one.
    watch : callable
        Called with (site, images done, images in all) while data are read.
    on_plan : callable
        Called with the cells that are finished already, and with all.
    on_cell : callable
        Called with each cell that is finished now.
    on_fail : callable
        Called with each cell that fails, and why; the others go on.

    Returns
    -------
    list of Finished
        All cells, in order of the grid.

    Raises
    ------
    MDMTError
        Data that cannot be used, a folder of another study, or, when all others are finished, cells
        that failed.
    """
    out = out.resolve()  # it goes into files that read a path relative to themselves
    _refuse_others(study, out)
    data = _open(study, watch)
    _check(study, data)
    cells = plan_cells(study, data)
    out.mkdir(parents=True, exist_ok=True)
    with _alone(out):
        finished = {cell.path: found for cell in cells if (found := read_cell(out, cell))}
        todo = [cell for cell in cells if cell.path not in finished]
        if todo:  # tables of a smaller grid would make a killed study look finished
            for name in TABLES:
                (out / name).unlink(missing_ok=True)
        save_config(study, out / "study.yaml")
        for seed, opened in data.items():
            opened.write_folds(study, out, seed)
        on_plan(list(finished.values()), cells)
        failed: list[str] = []
        with closing(_run(study, todo, out, workers)) as running:
            for cell, ended in running:
                if isinstance(ended, MDMTError):
                    failed.append(str(ended))
                    on_fail(cell, ended)
                else:
                    finished[cell.path] = ended
                    on_cell(ended)
        if failed:
            raise RunError(
                f"{len(failed)} of {len(cells)} cells failed; the same command tries them again:\n"
                + "\n".join(failed)
            )
        ordered = [finished[cell.path] for cell in cells]
        write_tables(study, out, data, ordered)
    return ordered


def default_workers(study: StudyConfig) -> int:
    """One cell per GPU, or as many as the cores can run with the study's threads."""
    if torch.cuda.is_available():
        return torch.cuda.device_count()
    return max(1, (os.cpu_count() or 1) // study.federation.training.threads)


def plan_cells(study: StudyConfig, data: Mapping[int, StudyData]) -> list[Cell]:
    """Every cell of the grid, in the order of the tables.

    Parameters
    ----------
    study : StudyConfig
    data : mapping of int to StudyData
        By seed.
    """
    return [
        Cell(
            arm,
            backbone,
            fold.name,
            number,
            seed,
            _identity(study, arm, backbone, data[seed], fold),
        )
        for backbone in study.grid_backbones
        for arm in study.arms
        for seed in study.seeds
        for number, fold in enumerate(data[seed].folds)
    ]


def _run(
    study: StudyConfig, todo: Sequence[Cell], out: Path, workers: int
) -> Generator[tuple[Cell, Finished | MDMTError]]:
    """Run cells; yield what each wrote, or why it failed, in the order in which they end."""
    with closing(run_cells(study, todo, out, workers)) as running:
        for cell, error in running:
            done = read_cell(out, cell)
            assert error or done, "a cell that ended without an error is there"
            yield cell, error or done  # type: ignore[misc]


def _identity(
    study: StudyConfig, arm: Arm, backbone: Backbone, data: StudyData, fold: Fold
) -> dict[str, Any]:
    """Everything that decides a cell's result beside its seed, as ``cell.json`` keeps it."""
    devices = {site.device for site in study.federation.sites.values()}
    weights = study.model(backbone).weights
    named = {} if weights in ("none", "timm", "offline") else {"weights": _digest_of(Path(weights))}
    return named | {
        "format": FORMAT,
        "recipe": study.federation.hash,
        "arm": arm.model_dump(mode="json", exclude={"name"}),
        "backbone": backbone.model_dump(mode="json", exclude={"name"}),
        "target": study.target,
        "checkpoint": study.checkpoint,
        "data": data.digest(fold),
        "devices": sorted({resolve_device(device).type for device in devices}),
        "versions": versions(),
    }


def _digest_of(file: Path) -> str:
    """Tell a file of weights from another that was put in its place."""
    return _digest(file, file.stat().st_mtime_ns)


@lru_cache
def _digest(file: Path, changed: int) -> str:
    """SHA-256 of a file as it was when it last `changed`: read once, not for every cell."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()[:16]


def _open(study: StudyConfig, watch: Watch) -> dict[int, StudyData]:
    """The data of every seed; the same object where they do not follow it."""
    if study.redraw:
        return {seed: open_data(study, seed, watch) for seed in study.seeds}
    return dict.fromkeys(study.seeds, open_data(study, study.federation.seed, watch))


def _check(study: StudyConfig, data: Mapping[int, StudyData]) -> None:
    """Find out before the first cell what would stop a later one."""
    for arm in study.arms:
        if isinstance(arm, Metadata):
            for opened in data.values():
                for name, site in opened.sites.items():
                    manifest = opened.manifests[name]
                    if study.target in site.tasks or has_columns(manifest, arm.columns):
                        check_columns(manifest, site, arm.columns)
    for backbone in study.grid_backbones:
        build_model(in_cell(study, backbone, study.seeds[0]), (), weights=True)


def _refuse_others(study: StudyConfig, out: Path) -> None:
    """Refuse a folder that holds anything but this study, or a part of its grid.

    Raises
    ------
    BadInput
        Says what differs.
    """
    if not out.exists():
        return
    file = out / "study.yaml"
    if not file.is_file():
        if not out.is_dir() or any(not entry.name.startswith(".") for entry in out.iterdir()):
            raise BadInput(f"{out}: already holds something; choose another --out")
        return
    other = load_study(file)
    grid = {"arms", "backbones", "seeds"}  # may grow: a cell knows what it was made from
    differing = [
        key
        for key in StudyConfig.model_fields
        if key not in grid and getattr(other, key) != getattr(study, key)
    ]
    if differing:
        raise BadInput(
            f"{out}: holds the study {other.name}, whose {', '.join(differing)} differ;"
            " choose another --out"
        )


@contextmanager
def _alone(out: Path) -> Iterator[None]:
    """Hold the study's folder, and clear what a killed run left in it."""
    with (out / ".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # ends with this process, however
        except OSError as error:
            raise BadInput(f"{out}: another mdmt study is running in it") from error
        for folder in (out / "cells").glob(".work-*"):
            shutil.rmtree(folder)
        for file in out.glob(".*.*.*"):  # tables half written: .results.csv.<random>
            file.unlink()
        yield
