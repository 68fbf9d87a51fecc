"""``mdmt demo`` and ``mdmt simulate``: a federation on this machine."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from mdmt.cli.console import FromRound, Overrides, progress_console, show_results
from mdmt.files import write_json

if TYPE_CHECKING:
    from mdmt.config import FederationConfig

Engine = Literal["inprocess", "ray"]
Out = Annotated[
    Path | None, typer.Option(help="Run directory: new or empty.", show_default="runs/NAME")
]


def demo(out: Out = None) -> None:
    """Train a federation of two synthetic hospitals, and compare it with local training."""
    from mdmt.config import find_config, load_federation

    federation, again = load_federation(find_config("demo")), "mdmt simulate demo"
    folder = _simulate(federation, "inprocess", out, again=again)
    typer.echo("Next:")
    typer.echo(f"  mdmt show {folder}          this table again, and the sites")
    typer.echo(f"  mdmt report {folder}        the results with curves, as one page for a browser")
    typer.echo(f"  {folder}/release/README.md  the model card of the trained model")
    typer.echo("  mdmt init --table labels.csv      start with your own table")


def simulate(
    config: Annotated[
        str, typer.Argument(help="Federation YAML with sites, or the name of one in the package.")
    ],
    engine: Annotated[
        Engine, typer.Option(help="inprocess, or ray: Flower's simulation engine.")
    ] = "inprocess",
    workers: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Processes that train sites at once; with 1, this process trains them. The result"
            " is the same.",
            show_default="what processors, GPUs and memory allow",
        ),
    ] = None,
    set_: Overrides = None,
    out: Out = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Resume the run in --out, or the newest one.")
    ] = False,
    from_round: FromRound = None,
) -> None:
    """Run a federation of several sites on this machine."""
    from mdmt.cli.overrides import remember, remembered
    from mdmt.config import find_config, load_federation, read_yaml
    from server.run import newest_run

    file, options = find_config(config), list(set_ or ())
    if resume:
        former = out or newest_run(str(read_yaml(file, options).get("name")))
        options = [*remembered(former), *options]
    folder = _simulate(
        load_federation(file, options),
        engine,
        out,
        workers,
        resume=resume,
        from_round=from_round,
        again=f"mdmt simulate {config}",
        on_start=lambda started: remember(started, options),
    )
    typer.echo(f"Run directory: {folder}")


def _simulate(
    config: FederationConfig,
    engine: Engine,
    out: Path | None,
    workers: int | None = None,
    *,
    resume: bool = False,
    from_round: int | None = None,
    again: str,
    on_start: Callable[[Path], None] = lambda folder: None,
) -> Path:
    """Check everything, then run and show the results; return the run directory.

    `again` is the command that an interrupted run is continued with.
    """
    from mdmt.cli.progress import watching
    from mdmt.cli.show import run_tables
    from mdmt.errors import BadInput, IncompleteError
    from server.going_back import go_back
    from server.run import find_run, new_run_folder

    if from_round is not None and not resume:
        raise BadInput("--from-round: needs --resume")
    resumed = find_run(out, config) if resume else None
    existed = out is not None and out.exists()
    if out is not None and existed and not out.is_dir():
        raise BadInput(f"{out}: is a file; choose another --out")
    if out is not None and existed and not resume and any(out.iterdir()):
        raise BadInput(f"{out}: is not empty; choose another --out, or --resume it")
    if engine == "ray" and workers is not None:
        raise BadInput("--workers: Ray starts its own workers; training.threads decides how many")
    console = progress_console()
    console.print(f"reading the data of {', '.join(sorted(config.sites)) or 'no site'}")
    with ExitStack() as stack:
        started = []
        if engine == "inprocess":
            from simulation.workers import count_workers, start_workers

            # Before any thread starts: workers can be forks of this process.
            wanted = workers or count_workers(config)
            started = stack.enter_context(start_workers(config, wanted))
        from simulation.simulate import prepare
        from simulation.simulate import simulate as run

        with console.status("reading") as status:
            looks = prepare(
                config, lambda site, done, n: status.update(f"{site}: image {done} of {n}")
            )
        folder = resumed or new_run_folder(out, config.name)
        if from_round is not None:
            go_back(folder, config, from_round)
        console.print(f"running in {folder}")
        on_start(folder)
        try:
            with watching(folder, config):
                run(config, folder, engine, started, resume=resume)
        except BadInput:
            if not resume and not (folder / "history.jsonl").exists():
                _discard(folder, keep=existed)
            raise
        except IncompleteError:
            show_results(*run_tables(folder))
            raise
        except KeyboardInterrupt as error:
            raise KeyboardInterrupt(_how_to_continue(folder, again)) from error
    write_json(folder / "release" / "appearance.json", {"format": 1, "sites": looks})
    show_results(*run_tables(folder))
    return folder


def _how_to_continue(folder: Path, again: str) -> str:
    """Say what is kept of an interrupted run, and the command that continues it."""
    from mdmt.checkpoints import round_of

    saved = (round_of(file) or 0 for file in folder.glob("checkpoints/round-*"))
    if not (number := max(saved, default=0)):
        return f"interrupted before the first round; to start again, delete {folder}"
    kept = f"it goes on after round {number}, with the files in {folder}"
    return f"interrupted: {kept}; continue with {again} --resume --out {folder}"


def _discard(folder: Path, *, keep: bool) -> None:
    """Remove the files of a federation that could not start.

    If the folder existed before, `keep` it and remove only its content.
    """
    for path in folder.iterdir():
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    if not keep:
        folder.rmdir()
