"""``mdmt export``: a task of a release as ONNX or as a program of torch.export."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer


def export(
    release: Annotated[Path, typer.Argument(help="Release folder, or the run directory it is in.")],
    task: Annotated[str, typer.Argument(help="Task to export.")],
    out: Annotated[Path, typer.Option(help="Folder to write: new or empty.")],
    site: Annotated[
        str | None, typer.Option(help="Site whose head to export, if several have one.")
    ] = None,
    format_: Annotated[
        Literal["onnx", "pt2"],
        typer.Option("--format", help="onnx (pip install mdmt[export]), or pt2: torch.export."),
    ] = "onnx",
) -> None:
    """Write the network of a task for other programs, and check it against PyTorch."""
    from mdmt.api import load_release
    from mdmt.export import export as write

    file = write(load_release(release), task, out, site=site, format=format_)
    typer.echo(f"{file}: the outputs are those of PyTorch")
    typer.echo(f"{out / 'metadata.json'}: how to preprocess images, and what the outputs mean")
