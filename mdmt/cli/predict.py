"""``mdmt predict``: the predictions of a release for images."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from mdmt.errors import BadInput
from mdmt.files import atomic_path

if TYPE_CHECKING:
    from mdmt.prediction import Images, Models, Predictor
    from mdmt.releases import Release

_NOTICES = 10
"""Largest number of unusual images that are named on the screen."""


def predict(
    release: Annotated[Path, typer.Argument(help="Release folder, or the run directory it is in.")],
    images: Annotated[list[Path], typer.Argument(help="Radiographs, or folders of them.")],
    out: Annotated[Path, typer.Option(help="CSV to write; never an existing file.")],
    heads: Annotated[
        Path | None,
        typer.Option(help="A site's saved state (round-NNNNN.safetensors), for its own heads."),
    ] = None,
    masks: Annotated[
        Path | None,
        typer.Option(help="Folder of lung masks with the names of the images, for a lung box."),
    ] = None,
    threshold: Annotated[
        list[str] | None,
        typer.Option(
            metavar="TASK=VALUE",
            help="Probability from which on a label counts as present.",
            show_default="0.5",
        ),
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda:0.")] = "auto",
    on_bad_image: Annotated[
        Literal["error", "skip"],
        typer.Option(help="Stop at an image that cannot be used, or leave it out."),
    ] = "error",
) -> None:
    """Write probabilities, labels, scores and their sums for each image as CSV."""
    if out.exists():
        raise BadInput(f"{out}: exists already; choose another --out")
    paths = _image_files(images)
    from mdmt.prediction import Images, Predictor, read_thresholds
    from mdmt.training import resolve_device

    opened, models = open_models(release, heads)
    if opened.config.preprocessing.lung_box and masks is None:
        raise BadInput(
            f"{opened.folder}: its images were cropped with lung masks (preprocessing.lung_box);"
            " give the folder of the masks of these images: --masks"
        )
    predictor = Predictor(
        opened.config,
        models,
        read_thresholds(threshold or (), opened.config),
        opened.fences,
        resolve_device(device),
    )
    read = Images(opened.config, paths, masks, skip=on_bad_image == "skip")
    try:
        written = _write(out, predictor, read)
    finally:
        for message in read.skipped:
            typer.echo(f"skipped {message}", err=True)
    skipped = f", {len(paths) - written} skipped" if written < len(paths) else ""
    typer.echo(f"{out}: {written} images{skipped}")


def open_models(release: Path, heads: Path | None) -> tuple[Release, Models]:
    """Open a release (or the run directory it is in) and the heads of all of its tasks.

    Raises
    ------
    BadInput
        There is no release, or it holds no head.
    """
    from mdmt.releases import open_release

    nested = release / "release"
    opened = open_release(nested if nested.is_dir() else release)
    return opened, opened.all_models(heads)


def _image_files(given: Sequence[Path]) -> list[Path]:
    """Expand folders into their image files. A file that is named itself is always read."""
    from mdmt.data.image_files import image_files

    paths: list[Path] = []
    for path in given:
        found, others = image_files(path) if path.is_dir() else ([path], {})
        by_reason: dict[str, list[str]] = {}
        for other, reason in others.items():
            by_reason.setdefault(reason, []).append(str(other.relative_to(path)))
        for reason, names in by_reason.items():
            more = f" and {len(names) - 3} more" if len(names) > 3 else ""
            typer.echo(f"passed over {', '.join(names[:3])}{more}: {reason}", err=True)
        if not found:
            raise BadInput(f"{path}: no DICOM, PNG, JPEG or TIFF file in this folder")
        paths += found
    return paths


def _write(out: Path, predictor: Predictor, images: Images) -> int:
    """Write the CSV file atomically; return the number of images in it."""
    written = noticed = 0
    with atomic_path(out) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(["image", *predictor.columns(), "notice"])
        for batch in images.batches():
            rows = predictor.rows(batch.pixels)
            notices = predictor.notices(batch)
            for path, row, notice in zip(batch.paths, rows, notices, strict=True):
                table.writerow([path, *row, notice])
                noticed += bool(notice)
                if notice and noticed <= _NOTICES:
                    typer.echo(f"unusual: {path}: {notice}", err=True)
            written += len(batch.paths)
        if not written:
            raise BadInput(f"{out}: not written: none of {len(images.paths)} images can be used")
    if noticed > _NOTICES:
        typer.echo(f"and {noticed - _NOTICES} more unusual images: see column notice", err=True)
    return written
