"""A complete simulation: check the arguments, read the data, run, and describe the release.

`mdmt.simulate` and the command ``mdmt simulate`` both use it.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack, nullcontext
from pathlib import Path
from typing import Any

from mdmt.config import FederationConfig
from mdmt.errors import BadInput
from mdmt.files import write_json
from simulation.simulate import Engine, prepare, simulate

Watch = Callable[[Path], AbstractContextManager[Any]]
"""Takes the run directory, and returns a context that is open while the federation runs."""


def simulate_completely(
    config: FederationConfig,
    out: Path | None,
    *,
    engine: Engine = "inprocess",
    workers: int | None = None,
    resume: bool = False,
    from_round: int | None = None,
    on_image: Callable[[str, int, int], None] = lambda site, done, n: None,
    on_start: Callable[[Path], None] = lambda folder: None,
    watch: Watch = lambda folder: nullcontext(),
) -> Path:
    """Run a federation of several sites on this machine, and return its run directory.

    Parameters
    ----------
    config : FederationConfig
        With sites.
    out : Path or None
        The run directory: new, empty or, with `resume`, that of the run. By default a new folder
        in ``runs``, or the newest run of this federation.
    engine : {"inprocess", "ray"}
    workers : int, optional
        Processes that train sites at once; by default what processors, GPUs and memory allow.
    resume : bool
    from_round : int, optional
        With `resume`: forget all rounds after this one.
    on_image : callable
        Called with (site, done, total) while images are read.
    on_start : callable
        Called with the run directory before the first round.
    watch : callable
        See `Watch`.

    Raises
    ------
    BadInput
        Nothing was run; a new folder is removed again.
    MDMTError
        The federation could not start, or failed.
    """
    from server.going_back import go_back
    from server.run import find_run, new_run_folder

    if from_round is not None and not resume:
        raise BadInput("--from-round: needs --resume")
    resumed = find_run(out, config) if resume else None
    existed = out is not None and out.exists()
    _check_folder(out, resume=resume)
    if engine == "ray" and workers is not None:
        raise BadInput("--workers: Ray starts its own workers; training.threads decides how many")
    with ExitStack() as stack:
        started = []
        if engine == "inprocess":
            from simulation.workers import count_workers, start_workers

            # Before any thread starts: workers can be forks of this process.
            wanted = workers or count_workers(config)
            started = stack.enter_context(start_workers(config, wanted))
        looks = prepare(config, on_image)
        folder = resumed or new_run_folder(out, config.name)
        if from_round is not None:
            go_back(folder, config, from_round)
        on_start(folder)
        try:
            with watch(folder):
                simulate(config, folder, engine, started, resume=resume)
        except BadInput:
            if not resume and not (folder / "history.jsonl").exists():
                _discard(folder, keep=existed)
            raise
    write_json(folder / "release" / "appearance.json", {"format": 1, "sites": looks})
    return folder


def _check_folder(out: Path | None, *, resume: bool) -> None:
    """Refuse a file, and a folder that is not empty unless it is resumed."""
    if out is None or not out.exists():
        return
    if not out.is_dir():
        raise BadInput(f"{out}: is a file; choose another --out")
    if not resume and any(out.iterdir()):
        raise BadInput(f"{out}: is not empty; choose another --out, or --resume it")


def _discard(folder: Path, *, keep: bool) -> None:
    """Remove the files of a federation that could not start.

    If the folder existed before, `keep` it and remove only its content.
    """
    for path in folder.iterdir():
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    if not keep:
        folder.rmdir()
