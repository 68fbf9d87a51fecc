"""Running a study: every cell that is not finished yet, then the tables of all."""

import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from mdmt.config import save_config
from mdmt.config.model import content_name
from mdmt.deployment.processes import only_one
from mdmt.errors import BadInput, MDMTError, RunError
from mdmt.models import build_model
from mdmt.training import resolve_device
from server.run import versions
from simulation.study.cell_workers import run_cells
from simulation.study.cells import FORMAT, Cell, in_cell, read_cell
from simulation.study.config import StudyConfig, load_study
from simulation.study.data import StudyData, Watch, open_data
from simulation.study.kinds import Metadata
from simulation.study.metadata import check_columns, has_columns
from simulation.study.shuffle import shuffle_labels
from simulation.study.stages import Stage, stages
from simulation.study.tables import TABLES, write_tables
from simulation.study.time_limit import TimeLimit

Saved = dict[str, Any]
"""The ``cell.json`` of a finished cell: its columns in tables, results, steps and seconds."""


def run_study(
    study: StudyConfig,
    out: Path,
    *,
    workers: int,
    max_minutes: float | None = None,
    watch: Watch = lambda site, done, n: None,
    on_plan: Callable[[Sequence[Saved], Sequence[Cell]], None] = lambda finished, cells: None,
    on_cell: Callable[[Saved], None] = lambda saved: None,
    on_fail: Callable[[Cell, MDMTError], None] = lambda cell, error: None,
) -> list[Saved]:
    """Run a study, or continue an interrupted one.

    Parameters
    ----------
    study : StudyConfig
    out : Path
        A new or empty folder, or that of the same study.
    workers : int
        Number of cells at the same time, each in its own process; 0 runs them in this process.
    max_minutes : float, optional
        A cell that would probably end later is not started. The tables are made when a later call
        has run the others.
    watch : callable
        Called with (site, images done, images in all) while data are read.
    on_plan : callable
        Called with the cells that are finished already, and with all cells, for each part of the
        study (`stages`).
    on_cell : callable
        Called with each cell that is finished now.
    on_fail : callable
        Called with each cell that fails, and the reason; the other cells run all the same.

    Returns
    -------
    list of dict
        All cells of the last part that ran, in order of the grid; without those that were not
        started.

    Raises
    ------
    MDMTError
        Data that cannot be used, a folder of another study, or, when all others are finished, cells
        that failed.
    """
    limit = TimeLimit(max_minutes)
    out = out.resolve()  # it goes into files that read a path relative to themselves
    _refuse_others(study, out)
    data = _open(study, watch)
    _check(study, data)
    finished: list[Saved] = []
    for stage in stages(study, out, data):
        cells = plan_cells(stage.study, stage.data)
        finished = _run_stage(stage, cells, workers, limit, on_plan, on_cell, on_fail)
        if len(finished) < len(cells):
            break
    return finished


def _run_stage(
    stage: Stage,
    cells: Sequence[Cell],
    workers: int,
    limit: TimeLimit,
    on_plan: Callable[[Sequence[Saved], Sequence[Cell]], None],
    on_cell: Callable[[Saved], None],
    on_fail: Callable[[Cell, MDMTError], None],
) -> list[Saved]:
    """Run the cells that are not finished; if none is left, write the tables of all."""
    study, out = stage.study, stage.out
    _refuse_others(study, out)
    with _alone(out):
        finished = {cell.path: found for cell in cells if (found := read_cell(out, cell))}
        todo = [cell for cell in cells if cell.path not in finished]
        if todo:  # tables of a smaller grid would make a killed study look finished
            for name in TABLES:
                (out / name).unlink(missing_ok=True)
        save_config(study, out / "study.yaml")
        for seed, opened in stage.data.items():
            opened.write_folds(study, out, seed)
        on_plan(list(finished.values()), cells)
        for saved in finished.values():
            limit.book(saved)
        failed: list[str] = []
        with closing(run_cells(study, todo, out, workers, limit)) as ended:
            for cell, error in ended:
                if error is not None:
                    failed.append(str(error))
                    on_fail(cell, error)
                elif found := read_cell(out, cell):
                    finished[cell.path] = found
                    limit.book(found)
                    on_cell(found)
        if failed:
            raise RunError(
                f"{len(failed)} of {len(cells)} cells failed; the same command tries them again:\n"
                + "\n".join(failed)
            )
        ordered = [finished[cell.path] for cell in cells if cell.path in finished]
        if len(ordered) == len(cells):
            write_tables(stage, list(zip(cells, ordered, strict=True)))
    return ordered


def plan_cells(study: StudyConfig, data: Mapping[int, StudyData]) -> list[Cell]:
    """Every cell of the grid, in the order of the tables.

    The identity of a cell is everything besides its seed that changes its result.

    Parameters
    ----------
    study : StudyConfig
    data : mapping of int to StudyData
        By seed.
    """
    devices = {resolve_device(site.device).type for site in study.federation.sites.values()}
    shared = {
        "format": FORMAT,
        "target": study.target,
        "checkpoint": study.checkpoint,
        "devices": sorted(devices),
        "versions": versions(),
    }
    cells = []
    for backbone in study.grid_backbones:
        built: dict[str, Any] = {"backbone": backbone.model_dump(mode="json", exclude={"name"})}
        for arm in study.arms:
            own = shared | built | {"arm": arm.model_dump(mode="json", exclude={"name"})}
            own["recipe"] = study.recipe(arm).hash
            # Another file may be put in the place of a file of weights.
            own["weights"] = content_name(study.model(arm, backbone).weights)
            for seed in study.seeds:
                for number, fold in enumerate(data[seed].folds):
                    identity = own | {"data": data[seed].digest(fold)}
                    cells.append(Cell(arm, backbone, fold.name, number, seed, identity))
    return cells


def _open(study: StudyConfig, watch: Watch) -> dict[int, StudyData]:
    """The data of every seed; the same object where they do not follow it."""
    if study.redraw:
        data = {seed: open_data(study, seed, watch) for seed in study.seeds}
    else:
        data = dict.fromkeys(study.seeds, open_data(study, study.federation.seed, watch))
    if (task := study.shuffle) is None:
        return data
    return {
        seed: replace(
            opened,
            folds=[shuffle_labels(fold, opened.manifests, task, seed) for fold in opened.folds],
        )
        for seed, opened in data.items()
    }


def _check(study: StudyConfig, data: Mapping[int, StudyData]) -> None:
    """Find out before the first cell what would stop a later one."""
    for arm in study.arms:
        if isinstance(arm, Metadata):
            for opened in data.values():
                for name, site in opened.sites.items():
                    manifest = opened.manifests[name]
                    if study.target in site.tasks or has_columns(manifest, arm.columns):
                        check_columns(manifest, site, arm.columns)
    cells = (
        in_cell(study, arm, backbone, study.seeds[0])
        for arm in study.arms
        for backbone in study.grid_backbones
    )
    for config in {config.model: config for config in cells}.values():
        build_model(config, (), weights=True)


def _refuse_others(study: StudyConfig, out: Path) -> None:
    """Refuse a folder with other content than this study or a part of its grid.

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
            raise BadInput(f"{out}: is not empty; choose another --out")
        return
    other = load_study(file)
    grid = {
        "arms",
        "backbones",
        "seeds",
        "train_fraction",
    }  # may grow: a cell knows what it was made from
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
    """Lock the study's folder, and remove what a killed run left in it."""
    with only_one(out / ".lock", f"{out}: this study"):
        for folder in (out / "cells").glob(".work-*"):
            shutil.rmtree(folder)
        for file in out.glob(".*.*.*"):  # tables half written: .results.csv.<random>
            file.unlink()
        yield
