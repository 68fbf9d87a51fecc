"""``mdmt predict``: what a release says of images."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from mdmt.models import MDMTModel
    from mdmt.releases import Release
    from mdmt.tasks.base import Task

    Heads = list[tuple[str, str, MDMTModel]]
    """Task, site (empty for a shared head) and model, in order of columns."""

__all__ = ["predict"]


class _OnBadImage(StrEnum):
    error = "error"
    skip = "skip"


def predict(
    release: Annotated[Path, typer.Argument(help="Release folder, or the run directory it is in.")],
    images: Annotated[list[Path], typer.Argument(help="Radiographs, or folders of them.")],
    out: Annotated[Path, typer.Option(help="CSV to write; never an existing file.")],
    heads: Annotated[
        Path | None,
        typer.Option(help="A site's saved state (round-NNNNN.safetensors), for its own heads."),
    ] = None,
    on_bad_image: Annotated[
        _OnBadImage, typer.Option(help="Stop at an image that cannot be used, or leave it out.")
    ] = _OnBadImage.error,
) -> None:
    """Write probabilities, scores and their sums for each image as CSV."""
    from mdmt.errors import BadInput

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
    models = list(_released_models(opened) if heads is None else _site_models(opened, heads))
    if not models:
        raise BadInput(
            f"{opened.folder}: holds no head for any task: heads stayed with the sites; a site adds"
            " its own with --heads <state_dir>/.../round-NNNNN.safetensors"
        )
    written = _write(out, opened, models, paths, skip=on_bad_image is _OnBadImage.skip)
    skipped = f", {len(paths) - written} skipped" if written < len(paths) else ""
    typer.echo(f"{out}: {written} images{skipped}")


def _image_files(given: Sequence[Path]) -> list[Path]:
    """Expand folders into their image files; what is named itself is always read."""
    from mdmt.cli.guess import IMAGE_SUFFIXES
    from mdmt.errors import BadInput

    paths: list[Path] = []
    for path in given:
        if not path.is_dir():
            paths.append(path)
            continue
        found = [
            file
            for file in sorted(path.rglob("*"))
            if file.is_file()
            and file.suffix.lower() in IMAGE_SUFFIXES | {""}
            and not file.name.startswith(".")
        ]
        if not found:
            raise BadInput(f"{path}: no DICOM, PNG, JPEG or TIFF file in this folder")
        paths += found
    return paths


def _released_models(release: Release) -> Iterator[tuple[str, str, MDMTModel]]:
    for task in release.config.tasks:
        for site, model in release.models(task):
            yield task, site, model


def _site_models(release: Release, file: Path) -> Iterator[tuple[str, str, MDMTModel]]:
    """Yield the tasks of a site's own heads, on the backbone of the round they belong to.

    Raises
    ------
    BadInput
        The file is no saved state of this run, or of another round than the released ones.
    """
    from safetensors.torch import load_file

    from mdmt.checkpoints import RoundFiles, round_of
    from mdmt.errors import BadInput, StateError
    from mdmt.models import build_model, head_task, load_staying, set_arrays
    from mdmt.releases import backbone_file

    expected = {"run": release.run, "federation": release.hash, "arm": "federated"}
    state, number = RoundFiles(file.parent, expected), round_of(file)
    if number is None:
        raise BadInput(f"{file}: not a saved state of a site (round-NNNNN.safetensors)")
    try:
        saved = state.load(number)
    except StateError as error:
        raise BadInput(f"{file}: not a saved state of this release: {error}") from error
    tensors = {n: value for n, value in saved.tensors.items() if not n.startswith("moments.")}
    tasks = sorted({task for name in tensors if (task := head_task(name)) is not None})
    # After a round it missed, a site's heads are those of the last one it took part in.
    saved_rounds = {task: state.latest(release.rounds[task]) for task in tasks}
    fitting = [task for task, n in saved_rounds.items() if n and state.path(n).name == file.name]
    if not fitting:
        rounds = ", ".join(f"{release.rounds[task]} ({task})" for task in tasks)
        raise BadInput(f"{file}: not the heads of a released round; those are {rounds or 'none'}")
    for task in fitting:
        model = build_model(release.config, tasks, weights=False)
        backbone = load_file(release.folder / backbone_file(release.rounds[task]))
        set_arrays(model, {name: tensor.numpy() for name, tensor in backbone.items()})
        load_staying(model, tensors)
        yield task, saved.identity.get("site", ""), model.eval()


def _write(out: Path, release: Release, heads: Heads, paths: Sequence[Path], *, skip: bool) -> int:
    """Write the CSV in one go; return the number of images in it."""
    from mdmt.errors import BadInput
    from mdmt.files import atomic_path

    written = 0
    with atomic_path(out) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(["image", *_columns(release, heads)])
        for batch, pixels in _batches(release, paths, skip):
            for path, row in zip(batch, _predictions(release, heads, pixels), strict=True):
                table.writerow([path, *(f"{value:.6g}" for value in row)])
            written += len(batch)
        if not written:
            raise BadInput(f"{out}: not written: none of {len(paths)} images can be used")
    return written


def _columns(release: Release, heads: Heads) -> Iterator[str]:
    tasks = [task for task, _, _ in heads]
    for task, site, _ in heads:
        prefix = f"{task}@{site}" if tasks.count(task) > 1 else task
        space = release.config.space(task)
        yield from (f"{prefix}.{name}" for name in space.prediction_names)
        if _has_sum(space):
            yield f"{prefix}.sum"


def _has_sum(space: Task) -> bool:
    return space.summable and len(space.prediction_names) > 1


def _batches(
    release: Release, paths: Sequence[Path], skip: bool
) -> Iterator[tuple[list[Path], NDArray[np.uint8]]]:
    """Yield images with their pixels, uint8 (B, S, S), preprocessed as they were for training."""
    import numpy as np

    from mdmt.data.images import read_radiograph
    from mdmt.data.preprocessing import preprocess
    from mdmt.errors import ImageError

    config, batch, pixels = release.config, [], []
    for index, path in enumerate(paths):
        try:
            radiograph = read_radiograph(path, voi=config.preprocessing.voi)
            pixels.append(
                preprocess(radiograph, None, config.preprocessing, config.model.image_size)
            )
            batch.append(path)
        except ImageError as error:
            message = str(error) if str(path) in str(error) else f"{path}: {error}"
            if not skip:
                raise ImageError(message) from error
            typer.echo(f"skipped {message}", err=True)
        if batch and (len(batch) == config.training.batch_size or index == len(paths) - 1):
            yield batch, np.stack(pixels)
            batch, pixels = [], []


def _predictions(release: Release, heads: Heads, pixels: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Predictions of a batch, float64 (B, columns)."""
    import numpy as np
    import torch

    from mdmt.data.batches import normalise

    images = normalise(torch.from_numpy(pixels).unsqueeze(1).float() / 255, release.config)
    columns = []
    for task, _, model in heads:
        space = release.config.space(task)
        with torch.inference_mode():
            predictions = space.decode(model(images, [task])[task].float().numpy())
        columns.append(predictions)
        if _has_sum(space):
            columns.append(predictions.sum(axis=1, keepdims=True))
    return np.concatenate(columns, axis=1)
