"""Cells in processes of their own, which end with the one that started them."""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import threading
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, suppress
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from mdmt.errors import MDMTError, RunError
from simulation.study.cells import Cell, run_cell
from simulation.study.config import StudyConfig
from simulation.workers import choose_gpu

__all__ = ["run_cells"]

_THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


def run_cells(
    study: StudyConfig, todo: Sequence[Cell], out: Path, workers: int
) -> Generator[tuple[Cell, MDMTError | None]]:
    """Run cells and yield each when it ended, in any order, with the error if it failed.

    Parameters
    ----------
    study : StudyConfig
    todo : sequence of Cell
    out : Path
    workers : int
        Processes; 0 runs the cells in this one.

    Raises
    ------
    RunError
        A worker was killed.
    """
    if workers == 0:
        for cell in todo:
            try:
                run_cell(study, cell, out)
            except MDMTError as error:
                yield cell, error
            else:
                yield cell, None
        return
    with _pool(min(workers, len(todo)) or 1, study.federation.training.threads) as pool:
        running = {pool.submit(run_cell, study, cell, out): cell for cell in todo}
        while running:
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                cell = running.pop(future)
                try:
                    future.result()
                except BrokenProcessPool as error:
                    raise RunError(
                        "a worker process was killed, perhaps for want of memory; fewer --workers"
                        " may help, and the same command goes on from here"
                    ) from error
                except MDMTError as error:
                    yield cell, error
                else:
                    yield cell, None


@contextmanager
def _pool(workers: int, threads: int) -> Iterator[ProcessPoolExecutor]:
    """Processes that end at once when this one stops or is killed."""
    context = multiprocessing.get_context("spawn")
    alive, our_end = context.Pipe(duplex=False)
    before = dict(os.environ)
    # Read by each worker as it starts, before torch and numpy are there to be told.
    os.environ |= dict.fromkeys(_THREADS, str(threads))
    pool = ProcessPoolExecutor(
        workers, context, initializer=_start, initargs=(alive, context.Value("i", 0))
    )
    try:
        yield pool
    except BaseException:
        our_end.close()
        raise
    finally:
        pool.shutdown(cancel_futures=True)
        our_end.close()
        os.environ.clear()
        os.environ |= before


def _start(alive: Connection, counter: Any) -> None:
    """Prepare a worker process: a GPU of its own where there are several, and how it ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a Ctrl-C is the parent's to handle
    logging.getLogger("mdmt").setLevel(logging.ERROR)  # the parent warned of the data already
    with counter.get_lock():
        number = counter.value
        counter.value += 1
    choose_gpu(number)

    def end_with_parent() -> None:
        with suppress(EOFError):
            alive.recv()  # nothing is ever sent: the other end was closed
        os._exit(1)  # a cell's folder is renamed into place, so nothing half-written is left

    threading.Thread(target=end_with_parent, daemon=True).start()
