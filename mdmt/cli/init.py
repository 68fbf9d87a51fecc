"""``mdmt init``: first configuration files from a table of labels."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mdmt.files import render, write_text

if TYPE_CHECKING:
    from mdmt.cli.guess import Guess

__all__ = ["init"]


def init(
    table: Annotated[Path, typer.Option(help="CSV or XLSX with one row per image.")],
    out: Annotated[Path, typer.Option(help="Folder for the two files.")] = Path(),
) -> None:
    """Write a first site.yaml and federation.yaml from the columns of a table of labels."""
    from mdmt.cli.guess import guess_columns, task_name
    from mdmt.data.tabular import read_tabular_file
    from mdmt.errors import BadInput

    files = [out / "site.yaml", out / "federation.yaml"]
    for file in files:
        if file.exists():
            raise BadInput(f"{file}: exists already; choose another --out")
    guess = guess_columns(read_tabular_file(table))
    name = task_name(table.resolve().parent.name)
    dataset = _dataset(guess, table.resolve(), out.resolve())
    for file in files:
        facts: dict[str, Any] = {"file": file, "name": name, "dataset": dataset, "guess": guess}
        write_text(file, render("mdmt.cli", f"{file.name}.j2", **facts))
    typer.echo(render("mdmt.cli", "summary.txt.j2", guess=guess, files=files), nl=False)


def _dataset(guess: Guess, table: Path, out: Path) -> dict[str, Any]:
    """Return the section `dataset`. A path below `out` is relative to it."""
    root = guess.root.relative_to(out) if guess.root.is_relative_to(out) else guess.root
    below = table.parent == guess.root
    keys: dict[str, Any] = {"kind": "table", "root": str(root)}
    keys["table"] = table.name if below else str(Path("..") / table.name)
    keys |= {"image": guess.image, "patient": guess.patient, "split": guess.split}
    keys["splits"] = guess.splits if any(k != v for k, v in guess.splits.items()) else None
    keys["mask"] = guess.mask
    return {key: value for key, value in keys.items() if value is not None}
