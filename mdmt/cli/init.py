"""``mdmt init``: first configuration files from tables of labels."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mdmt.errors import BadInput
from mdmt.files import render, write_text

if TYPE_CHECKING:
    from mdmt.data.guess import Guess


def init(
    table: Annotated[
        list[Path],
        typer.Option(help="CSV or XLSX with one row per image. Repeat it for more sites."),
    ],
    out: Annotated[Path, typer.Option(help="Folder for the files.")] = Path(),
    image: Annotated[str | None, typer.Option(help="Column of image files.")] = None,
    patient: Annotated[str | None, typer.Option(help="Column of patient ids.")] = None,
    split: Annotated[str | None, typer.Option(help="Column of splits.")] = None,
    label: Annotated[
        list[str] | None, typer.Option(help="Column of labels; may be repeated.")
    ] = None,
) -> None:
    """Write a first site.yaml and federation.yaml from the columns of tables of labels.

    The names of columns and their cells tell what they probably mean. With several tables, each is
    a site of the federation, and a named column counts for the tables that have it.
    """
    from mdmt.data.guess import Named, guess_columns
    from mdmt.data.guess_union import unite
    from mdmt.data.tabular import read_tabular_file

    tables = dict(zip(_names(table), table, strict=True))
    only = len(tables) == 1
    files = {name: out / ("site.yaml" if only else f"site-{name}.yaml") for name in tables}
    federation = out / "federation.yaml"
    if old := [file for file in (*files.values(), federation) if file.exists()]:
        raise BadInput(f"{old[0]}: exists already; choose another --out")
    read = {name: read_tabular_file(path) for name, path in tables.items()}
    named = Named(image, patient, split, tuple(label or ()))
    everywhere = {column for tabular in read.values() for column in tabular.columns}
    guesses = unite(
        {
            name: guess_columns(tabular, named.without(everywhere - set(tabular.columns)))
            for name, tabular in read.items()
        }
    )
    sites: dict[str, dict[str, Any]] = {
        name: {"guess": guess, "dataset": _dataset(guess, tables[name].resolve(), out.resolve())}
        for name, guess in guesses.items()
    }
    for name, site in sites.items():
        text = render("mdmt.cli", "site.yaml.j2", file=files[name], name=name, **site)
        write_text(files[name], text)
    tasks = {task.name: task for guess in guesses.values() for task in guess.tasks}
    name = next(iter(tables)) if only else _task_name(out.resolve().name)
    facts: dict[str, Any] = {"file": federation, "name": name, "tasks": tasks, "sites": sites}
    write_text(federation, render("mdmt.cli", "federation.yaml.j2", **facts))
    written = [*files.values(), federation]
    summary = render("mdmt.cli", "summary.txt.j2", sites=sites, files=written)
    typer.echo(summary, nl=False)


def _names(tables: list[Path]) -> list[str]:
    """Name each site by the folder of its table, or by the table if two are in one folder."""
    folders = [_task_name(table.resolve().parent.name) for table in tables]
    if len(set(folders)) == len(tables):
        return folders
    stems = [_task_name(table.name.partition(".")[0]) for table in tables]
    if len(set(stems)) == len(tables):
        return stems
    both = [f"{folder}-{stem}" for folder, stem in zip(folders, stems, strict=True)]
    if len(set(both)) < len(tables):
        raise BadInput(f"{tables[0]}: the same table twice")
    return both


def _task_name(text: str) -> str:
    from mdmt.data.guess import task_name

    return task_name(text)


def _dataset(guess: Guess, table: Path, out: Path) -> dict[str, Any]:
    """Return the section `dataset`. A path below `out` is relative to it."""
    folder = table.parent
    root = folder.relative_to(out) if folder.is_relative_to(out) else folder
    keys: dict[str, Any] = {"kind": "table", "root": str(root), "table": table.name}
    keys |= {"image": guess.image, "patient": guess.patient, "split": guess.split}
    keys["splits"] = guess.splits if any(k != v for k, v in guess.splits.items()) else None
    keys["mask"] = guess.mask
    return {key: value for key, value in keys.items() if value is not None}
