"""What ``import mdmt`` offers: the commands of the command line as functions.

::

    import mdmt

    run = mdmt.simulate("demo", overrides=["training.rounds=5"])
    run.metrics["checkpoints"]["last"]
    release = mdmt.load_release(run.folder)
    release.predict("images/")           # {"prognosis@city-hospital": array (N, 2), ...}
    release.model("severity")            # a plain nn.Module

Errors are those of `mdmt.errors`. ``import mdmt`` loads this module when one of its names is used.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from mdmt.config import FederationConfig, build_config, change_config, find_config, load_federation
from mdmt.data.validation import ValidationReport, validate_dataset
from mdmt.releases import Release, open_release
from mdmt.report import write_report
from mdmt.results.events import following
from mdmt.results.runs import Run as RunFiles
from mdmt.results.runs import read_run
from mdmt.results.studies import Study as StudyFiles
from mdmt.results.studies import read_study


@dataclass(frozen=True)
class Run(RunFiles):
    """The files of a run (see `mdmt.results.runs.Run`), and its report."""

    def report(self) -> Path:
        """Write ``report.html`` into the run directory, and return its path."""
        return write_report(self.folder)


@dataclass(frozen=True)
class Study(StudyFiles):
    """The files of a study (see `mdmt.results.studies.Study`), and its report."""

    def report(self) -> Path:
        """Write ``report.html`` into the folder of the study, and return its path."""
        return write_report(self.folder)


def load_config(
    config: FederationConfig | Mapping[str, Any] | str | Path, overrides: Sequence[str] = ()
) -> FederationConfig:
    """Read the configuration of a federation.

    Parameters
    ----------
    config : FederationConfig, mapping, str or Path
        An object, the content of a YAML file, a path, or the name of a configuration that ships.
    overrides : sequence of str
        Such as ``training.rounds=5``.

    Raises
    ------
    ConfigError
        One line with the key, its value and what was expected.
    """
    if isinstance(config, str | Path):
        return load_federation(find_config(config), overrides)
    if not isinstance(config, FederationConfig):
        config = build_config(FederationConfig, dict(config), Path("config"))
    return change_config(config, overrides) if overrides else config


def simulate(
    config: FederationConfig | Mapping[str, Any] | str | Path,
    out: str | Path | None = None,
    *,
    overrides: Sequence[str] = (),
    engine: Literal["inprocess", "ray"] = "inprocess",
    workers: int | None = 1,
    resume: bool = False,
    on_event: Callable[[dict[str, Any]], None] | None = None,
) -> Run:
    """Run a federation of several sites on this machine, as ``mdmt simulate`` does.

    Parameters
    ----------
    config : FederationConfig, mapping, str or Path
        With sites; see `load_config`.
    out : str or Path, optional
        The run directory; by default a new folder in ``runs``.
    overrides : sequence of str
    engine : {"inprocess", "ray"}
    workers : int, optional
        Processes that train sites at once. None: as many as processors, GPUs and memory allow; then
        a script needs ``if __name__ == "__main__":``, as with all of multiprocessing.
    resume : bool
        Continue the run in `out`, or the newest one.
    on_event : callable, optional
        Called, in a thread, with each event of the run: a line of ``events.jsonl``.

    Returns
    -------
    Run
        Results, history and folder. ``run.report()`` writes its HTML page.

    Raises
    ------
    MDMTError
    """
    from simulation.complete import simulate_completely

    folder = simulate_completely(
        load_config(config, overrides),
        None if out is None else Path(out),
        engine=engine,
        workers=None if engine == "ray" else workers,
        resume=resume,
        watch=lambda folder: following(folder, on_event) if on_event else nullcontext(),
    )
    return Run(**vars(read_run(folder)))


def study(
    config: str | Path,
    out: str | Path | None = None,
    *,
    overrides: Sequence[str] = (),
    workers: int = 0,
    on_cell: Callable[[dict[str, Any]], None] = lambda cell: None,
) -> Study:
    """Run a study, or continue an interrupted one, as ``mdmt study`` does.

    Parameters
    ----------
    config : str or Path
        A study's YAML file, or the name of one that ships.
    out : str or Path, optional
        Its folder; by default ``studies/NAME``.
    overrides : sequence of str
    workers : int
        Cells at a time, each in its own process; 0 runs them in this process.
    on_cell : callable
        Called with each finished cell.

    Returns
    -------
    Study
        Results and statistics. ``study.report()`` writes its HTML page.
    """
    from simulation.study.config import load_study
    from simulation.study.runner import run_study

    loaded = load_study(find_config(config, "study"), overrides)
    folder = Path("studies") / loaded.name if out is None else Path(out)
    run_study(loaded, folder, workers=workers, on_cell=on_cell)
    return Study(**vars(read_study(folder)))


def validate(
    config: FederationConfig | Mapping[str, Any] | str | Path,
) -> dict[str, ValidationReport]:
    """Check every image and label of the sites of a federation.

    Returns
    -------
    dict of str to ValidationReport
        By site. Training would be wrong if a report has `errors`.
    """
    loaded = load_config(config)
    return {n: validate_dataset(site, loaded.seed) for n, site in sorted(loaded.sites.items())}


def load_release(folder: str | Path) -> Release:
    """Open a release, or the release in a run directory.

    Raises
    ------
    BadInput
        There is no release.
    """
    nested = Path(folder) / "release"
    return open_release(nested if nested.is_dir() else Path(folder))
