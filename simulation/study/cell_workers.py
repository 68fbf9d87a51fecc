"""Running the cells of a study, in this process or in several."""

import os
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path

from mdmt.errors import MDMTError
from mdmt.workers import WorkerProcess, map_jobs, running
from simulation.study.cells import Cell, run_cell
from simulation.study.config import StudyConfig
from simulation.study.time_limit import TimeLimit
from simulation.workers import prepare_worker

_THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


def run_cells(
    study: StudyConfig, todo: Sequence[Cell], out: Path, workers: int, limit: TimeLimit
) -> Generator[tuple[Cell, MDMTError | None]]:
    """Run cells and yield each when it has ended, in any order, with the error if it failed.

    Parameters
    ----------
    study : StudyConfig
    todo : sequence of Cell
    out : Path
    workers : int
        Processes; 0 runs the cells in this one. A process that dies costs its cell.
    limit : TimeLimit
        Says which cells may start.
    """
    if workers == 0:
        for cell in limit.admit(todo):
            yield cell, _try_cell(study, out, cell)
        return
    serve = partial(_serve_cell, study, out)
    processes = [
        WorkerProcess(serve, partial(prepare_worker, number))
        for number in range(min(workers, len(todo)))
    ]
    with _thread_limit(study.federation.training.threads), running(processes):
        yield from map_jobs(processes, limit.admit(todo))


def _try_cell(study: StudyConfig, out: Path, cell: Cell) -> MDMTError | None:
    try:
        run_cell(study, cell, out)
    except MDMTError as error:
        return error
    return None


def _serve_cell(study: StudyConfig, out: Path, connection: Connection) -> None:
    connection.send(_try_cell(study, out, connection.recv()))


@contextmanager
def _thread_limit(threads: int) -> Iterator[None]:
    """Let processes that are started in the block use so many threads for NumPy and SciPy.

    Their libraries read the environment as they are imported.
    """
    before = dict(os.environ)
    os.environ |= dict.fromkeys(_THREADS, str(threads))
    try:
        yield
    finally:
        os.environ.clear()
        os.environ |= before
