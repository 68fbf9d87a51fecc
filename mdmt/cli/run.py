"""``mdmt demo`` and ``mdmt simulate``: a federation on this machine."""

from __future__ import annotations

import shutil
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from client.deployment.worker import Worker
    from mdmt.config import FederationConfig

__all__ = ["demo", "simulate"]


class _Engine(StrEnum):
    inprocess = "inprocess"
    ray = "ray"


Out = Annotated[
    Path | None,
    typer.Option(help="Run directory: new or empty.  [default: runs/NAME]", show_default=False),
]


def demo(out: Out = None) -> None:
    """Train two synthetic hospitals with different labels together, and show what each gained."""
    from mdmt.config import find_config, load_federation

    folder = _simulate(load_federation(find_config("demo")), _Engine.inprocess, out)
    typer.echo("Next:")
    typer.echo(f"  mdmt show {folder}          this table again, and who took part")
    typer.echo(f"  mdmt report {folder}        the same with curves, as one page for a browser")
    typer.echo(f"  {folder}/release/README.md  the model card of what was trained")
    typer.echo("  mdmt init --table labels.csv      begin with a table of your own")


def simulate(
    config: Annotated[
        str, typer.Argument(help="Federation YAML with sites, or the name of one that ships.")
    ],
    engine: Annotated[
        _Engine, typer.Option(help="Our own, or Flower's: sites in Ray actors.")
    ] = _Engine.inprocess,
    workers: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Processes that train sites at once; 1 trains them in this one. The result is the"
            " same.  [default: what processors, GPUs and memory allow]",
            show_default=False,
        ),
    ] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Override, as in training.rounds=5."),
    ] = None,
    out: Out = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on where the run in --out, or the newest, stopped.")
    ] = False,
) -> None:
    """Run a federation of several sites on this machine."""
    from mdmt.config import find_config, load_federation

    loaded = load_federation(find_config(config), set_ or ())
    folder = _simulate(loaded, engine, out, workers, resume=resume)
    typer.echo(f"Run directory: {folder}")


def _simulate(
    config: FederationConfig,
    engine: _Engine,
    out: Path | None,
    workers: int | None = None,
    *,
    resume: bool = False,
) -> Path:
    """Check everything, then run and show the results; return the run directory."""
    from mdmt.cli.console import progress_console
    from mdmt.errors import BadInput

    if resume:
        from server.run import find_run

        out = find_run(out, config)
    elif out is not None and out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise BadInput(f"{out}: already holds something; choose another --out, or --resume it")
    console = progress_console()
    console.print(f"reading the data of {', '.join(sorted(config.sites)) or 'no site'}")
    if engine is _Engine.ray:
        if workers is not None:
            raise BadInput(
                "--workers: Ray has workers of its own; training.threads decides how many"
            )
        return _run(config, engine, out, [], resume=resume)
    from simulation.workers import count_workers, start_workers

    # Before there is any thread: workers may be forks of this process.
    with start_workers(config, workers or count_workers(config)) as started:
        return _run(config, engine, out, started, resume=resume)


def _run(
    config: FederationConfig,
    engine: _Engine,
    out: Path | None,
    workers: list[Worker],
    *,
    resume: bool,
) -> Path:
    from mdmt.cli.console import progress_console, result_console
    from mdmt.cli.progress import watching
    from mdmt.cli.tables import result_tables
    from mdmt.errors import BadInput
    from mdmt.results.runs import read_run
    from server.run import new_run_folder
    from simulation.simulate import prepare
    from simulation.simulate import simulate as run

    console = progress_console()
    with console.status("reading") as status:
        prepare(config, lambda site, done, n: status.update(f"{site}: image {done} of {n}"))
    # Only what this command makes is removed again if the federation cannot start.
    made = not resume and (out is None or not out.exists())
    folder = out if resume and out else new_run_folder(out, config.name)
    console.print(f"running in {folder}")
    try:
        with watching(folder, config):
            run(config, folder, engine.value, workers, resume=resume)
    except BadInput:
        if not resume and not (folder / "history.jsonl").exists():
            _discard(folder, itself=made)
        raise
    for table in result_tables(read_run(folder)):
        result_console().print(table)
    return folder


def _discard(folder: Path, *, itself: bool) -> None:
    """Remove what was written for a federation that could not start; the folder too if `itself`."""
    for path in folder.iterdir():
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()
    if itself:
        folder.rmdir()
