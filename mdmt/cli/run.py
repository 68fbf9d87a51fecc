"""``mdmt demo`` and ``mdmt simulate``: a federation on this machine."""

from __future__ import annotations

import shutil
from contextlib import suppress
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
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
        _Engine, typer.Option(help="In this process, or Flower's own engine: sites in Ray actors.")
    ] = _Engine.inprocess,
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
    folder = _simulate(loaded, engine, out, resume=resume)
    typer.echo(f"Run directory: {folder}")


def _simulate(
    config: FederationConfig, engine: _Engine, out: Path | None, *, resume: bool = False
) -> Path:
    """Check everything, then run and show the results; return the run directory."""
    from mdmt.cli.console import progress_console, result_console
    from mdmt.cli.progress import watching
    from mdmt.errors import BadInput

    if resume:
        from server.run import find_run

        out = find_run(out, config)
    elif out is not None and out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise BadInput(f"{out}: already holds something; choose another --out, or --resume it")
    console = progress_console()
    console.print(f"reading the data of {', '.join(sorted(config.sites)) or 'no site'}")
    with console.status("reading") as status:
        from simulation.simulate import prepare
        from simulation.simulate import simulate as run

        prepare(config, lambda site, done, n: status.update(f"{site}: image {done} of {n}"))
    from mdmt.cli.tables import result_tables
    from mdmt.runs import read_run
    from server.run import new_run_folder

    folder = out if resume and out else new_run_folder(out, config.name)
    console.print(f"running in {folder}")
    try:
        with watching(folder, config):
            run(config, folder, engine.value, resume=resume)
    except BadInput:
        _discard(folder)
        raise
    for table in result_tables(read_run(folder)):
        result_console().print(table)
    return folder


def _discard(folder: Path) -> None:
    """Remove the run directory of a federation that could not start."""
    if not (folder / "history.jsonl").exists():
        shutil.rmtree(folder)
        with suppress(OSError):  # other runs are in it
            Path("runs").rmdir()
