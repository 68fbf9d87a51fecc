"""``mdmt demo`` and ``mdmt simulate``: a federation on this machine."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from mdmt.cli.console import FromRound, Overrides, progress_console, show_results

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
        options = [*(o for o in remembered(former) if o not in options), *options]
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
    """Run the federation and show its results; return the run directory.

    `again` is the command that an interrupted run is continued with.
    """
    from mdmt.cli.progress import watching
    from mdmt.cli.show import run_tables
    from mdmt.errors import IncompleteError
    from simulation.complete import simulate_completely

    console, folder = progress_console(), out
    console.print(f"reading the data of {', '.join(sorted(config.sites)) or 'no site'}")
    status = console.status("reading")  # its thread starts after the workers, which are forks

    def show_image(site: str, done: int, n: int) -> None:
        status.start()
        status.update(f"{site}: image {done} of {n}")

    def announce(started: Path) -> None:
        nonlocal folder
        folder = started
        status.stop()
        console.print(f"running in {started}")
        on_start(started)

    try:
        folder = simulate_completely(
            config,
            out,
            engine=engine,
            workers=workers,
            resume=resume,
            from_round=from_round,
            on_image=show_image,
            on_start=announce,
            watch=lambda started: watching(started, config),
        )
    except IncompleteError:
        if folder is not None:
            show_results(*run_tables(folder))
        raise
    except KeyboardInterrupt as error:
        if folder is None or not folder.exists():
            raise
        raise KeyboardInterrupt(_how_to_continue(folder, again)) from error
    finally:
        status.stop()
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
