"""``mdmt predict``: the predictions of a release for images."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from mdmt.errors import BadInput, ImageError
from mdmt.files import atomic_path

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from mdmt.config import FederationConfig
    from mdmt.models import MDMTModel

    Models = list[tuple[str, str, MDMTModel]]
    """Task, site (empty for a shared head) and model, in the order of the columns."""


def predict(
    release: Annotated[Path, typer.Argument(help="Release folder, or the run directory it is in.")],
    images: Annotated[list[Path], typer.Argument(help="Radiographs, or folders of them.")],
    out: Annotated[Path, typer.Option(help="CSV to write; never an existing file.")],
    heads: Annotated[
        Path | None,
        typer.Option(help="A site's saved state (round-NNNNN.safetensors), for its own heads."),
    ] = None,
    on_bad_image: Annotated[
        Literal["error", "skip"],
        typer.Option(help="Stop at an image that cannot be used, or leave it out."),
    ] = "error",
) -> None:
    """Write probabilities, scores and their sums for each image as CSV."""
    if out.exists():
        raise BadInput(f"{out}: exists already; choose another --out")
    paths = _image_files(images)
    from mdmt.releases import open_release

    nested = release / "release"
    opened = open_release(nested if nested.is_dir() else release)
    if opened.config.preprocessing.lung_box:
        raise BadInput(
            f"{opened.folder}: its images were cropped with lung masks (preprocessing.lung_box),"
            " and predict takes images only"
        )
    if heads is None:
        models = [(t, site, m) for t in opened.config.tasks for site, m in opened.models(t)]
    else:
        models = list(opened.site_models(heads))
    if not models:
        raise BadInput(
            f"{opened.folder}: holds no head for any task: heads stayed with the sites; a site adds"
            " its own with --heads <state_dir>/.../round-NNNNN.safetensors"
        )
    written = _write(out, opened.config, models, paths, skip=on_bad_image == "skip")
    skipped = f", {len(paths) - written} skipped" if written < len(paths) else ""
    typer.echo(f"{out}: {written} images{skipped}")


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


def _write(
    out: Path, config: FederationConfig, models: Models, paths: Sequence[Path], *, skip: bool
) -> int:
    """Write the CSV file atomically; return the number of images in it."""
    written = 0
    with atomic_path(out) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(["image", *_columns(config, models)])
        for batch, pixels in _batches(config, paths, skip):
            for path, row in zip(batch, _predict(config, models, pixels), strict=True):
                table.writerow([path, *(f"{value:.6g}" for value in row)])
            written += len(batch)
        if not written:
            raise BadInput(f"{out}: not written: none of {len(paths)} images can be used")
    return written


def _columns(config: FederationConfig, models: Models) -> Iterator[str]:
    tasks = [task for task, *_ in models]
    for task, site, _ in models:
        prefix = f"{task}@{site}" if tasks.count(task) > 1 else task
        space = config.space(task)
        names = [*space.prediction_names, *(["sum"] if space.summable else [])]
        yield from (f"{prefix}.{name}" for name in names)


def _batches(
    config: FederationConfig, paths: Sequence[Path], skip: bool
) -> Iterator[tuple[list[Path], NDArray[np.uint8]]]:
    """Yield images with their pixels, uint8 (B, S, S), preprocessed as for training."""
    import numpy as np

    from mdmt.data.images import read_radiograph
    from mdmt.data.preprocessing import preprocess

    how, side = config.preprocessing, config.model.image_size
    size = config.training.evaluation_batch_size
    batch, pixels = [], []
    for index, path in enumerate(paths):
        try:
            pixels.append(preprocess(read_radiograph(path, voi=how.voi), None, how, side))
            batch.append(path)
        except ImageError as error:
            message = str(error) if str(path) in str(error) else f"{path}: {error}"
            if not skip:
                raise ImageError(message) from error
            typer.echo(f"skipped {message}", err=True)
        if batch and (len(batch) == size or index == len(paths) - 1):
            yield batch, np.stack(pixels)
            batch, pixels = [], []


def _predict(
    config: FederationConfig, models: Models, pixels: NDArray[np.uint8]
) -> NDArray[np.float64]:
    """Compute the predictions of a batch, float64 (B, columns)."""
    import numpy as np
    import torch

    from mdmt.data.batches import normalise

    images = normalise(torch.from_numpy(pixels).unsqueeze(1).float() / 255, config)
    columns = []
    for task, _, model in models:
        space = config.space(task)
        with torch.inference_mode():
            predictions = space.decode(model(images, [task])[task].float().numpy())
        total = predictions.sum(axis=1, keepdims=True)
        columns += [predictions, total] if space.summable else [predictions]
    return np.concatenate(columns, axis=1)
