"""Preprocessed images on disk: decoded once, then memory-mapped by every process.

A cache file holds M images as M·size² bytes, then their M positions in the manifest as 64-bit
little-endian integers; M follows from the file's length. One file, renamed into place, cannot
disagree with itself however many processes build it at a time. Its name is the hash of
everything its pixels depend on.

There are no shards: 5,000 images of 224² pixels are a quarter of a gigabyte, readers share its
pages, and what several files would save, rebuilding a part when some images change, is a build
that happens once. They would bring back the disagreement that one file cannot have.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import time
from collections import deque
from collections.abc import Callable, Generator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from mdmt.data.manifest import Manifest
from mdmt.errors import DataError, ImageError
from mdmt.files import atomic_path

if TYPE_CHECKING:
    from mdmt.config import PreprocessingConfig

__all__ = ["open_pixels"]

FORMAT = 1
"""Goes up whenever the same files would give other pixels."""
POSITION = np.dtype("<i8")
ABANDONED = 3600.0
"""Seconds without a write after which an unfinished file is taken for a killed builder's."""

logger = logging.getLogger(__name__)

Pixels = NDArray[np.uint8]
Loaded = Pixels | ImageError
Load = Callable[[int], Loaded]
"""Position in the manifest → one preprocessed image, or why there is none."""


def open_pixels(
    manifest: Manifest,
    config: PreprocessingConfig,
    size: int,
    *,
    cache_dir: Path,
    workers: int = 0,
    on_bad_image: Literal["error", "skip"] = "error",
    progress: Callable[[int, int], None] | None = None,
) -> tuple[NDArray[np.uint8], NDArray[np.intp]]:
    """Map the preprocessed images of a manifest, building their cache first if there is none.

    A cache belongs to the manifest's files as they are now (path, length, time of change), to
    `size`, and to those fields of `config` that change pixels: it is never stale. Images that
    were skipped are tried again at each opening, since a decoder may have been installed.

    Parameters
    ----------
    manifest : Manifest
    config : PreprocessingConfig
    size : int
        Side of the images in pixels.
    cache_dir : Path
        Sites may share it.
    workers : int
        Threads that decode while the cache is built; 0 decodes in the caller's.
    on_bad_image : {"error", "skip"}
        Raise for the first image that cannot be used, or leave it out with a warning.
    progress : callable, optional
        Called with the images done and their total after each image of a build.

    Returns
    -------
    pixels : memmap, uint8, (M, size, size), read-only
    positions : ndarray, intp, (M,)
        Where the M images stand in the manifest, ascending.

    Raises
    ------
    ImageError
        An image cannot be used and `on_bad_image` is ``error``; names its row.
    DataError
        No image can be used, or a file changed while it was read.
    """
    key = _key(manifest, config, size)
    path = cache_dir / f"{key}.pixels"
    load = partial(_load, manifest, config, size)
    if path.is_file():
        pixels, positions = _mapped(path, size)
        skipped = set(range(len(manifest))).difference(positions.tolist())
        retried = [load(index) for index in sorted(skipped)]
        errors = [loaded for loaded in retried if isinstance(loaded, ImageError)]
        if len(errors) == len(retried):
            for error in errors:
                _refuse(error, on_bad_image)
            _warn_of(len(errors), len(manifest))
            return pixels, positions
    _sweep(cache_dir)
    with atomic_path(path) as temporary:
        _build(temporary, load, len(manifest), workers, on_bad_image, progress)
        if _key(manifest, config, size) != key:
            raise DataError("image files changed while they were read; start again when they rest")
    return _mapped(path, size)


def _key(manifest: Manifest, config: PreprocessingConfig, size: int) -> str:
    masks = manifest.masks if config.lung_box else (None,) * len(manifest)
    files = [[_state(path) for path in paths] for paths in (manifest.images, masks)]
    changing = config.model_dump(mode="json", exclude={"mean", "std"})
    return hashlib.sha256(json.dumps([FORMAT, changing, size, files]).encode()).hexdigest()


def _state(path: Path | None) -> tuple[str, int, int] | None:
    """Tell a file from its earlier contents; a missing one differs from any other."""
    if path is None:
        return None
    absolute = os.path.abspath(path)  # noqa: PTH100 - Path.absolute keeps ".."; this is also faster
    try:
        status = os.stat(absolute)  # noqa: PTH116
    except OSError:
        return absolute, -1, -1
    return absolute, status.st_size, status.st_mtime_ns


def _mapped(path: Path, size: int) -> tuple[Pixels, NDArray[np.intp]]:
    with path.open("rb") as file:
        count = os.fstat(file.fileno()).st_size // (size * size + POSITION.itemsize)
        pixels = np.memmap(file, dtype=np.uint8, mode="r", shape=(count, size, size))
        file.seek(pixels.nbytes)
        positions = np.frombuffer(file.read(), dtype=POSITION).astype(np.intp)
    return pixels, positions


def _build(
    target: Path,
    load: Load,
    total: int,
    workers: int,
    on_bad_image: Literal["error", "skip"],
    progress: Callable[[int, int], None] | None,
) -> None:
    positions = []
    with target.open("wb") as file, closing(_in_order(load, total, workers)) as images:
        for index, loaded in enumerate(images):
            if isinstance(loaded, ImageError):
                _refuse(loaded, on_bad_image)
            else:
                file.write(loaded.tobytes())
                positions.append(index)
            if progress:
                progress(index + 1, total)
        if not positions:
            raise DataError(f"none of {total} images can be used; mdmt validate lists why")
        file.write(np.array(positions, dtype=POSITION).tobytes())
    _warn_of(total - len(positions), total)


def _in_order(load: Load, total: int, workers: int) -> Generator[Loaded]:
    """Images by position; at most two per worker are in memory."""
    if workers == 0:
        yield from map(load, range(total))
        return
    waiting: deque[Future[Loaded]] = deque()
    with ThreadPoolExecutor(workers) as pool:
        for index in range(total):
            if len(waiting) == 2 * workers:
                yield waiting.popleft().result()
            waiting.append(pool.submit(load, index))
        while waiting:
            yield waiting.popleft().result()


def _load(manifest: Manifest, config: PreprocessingConfig, size: int, index: int) -> Loaded:
    from mdmt.data.images import read_mask, read_radiograph
    from mdmt.data.preprocessing import preprocess

    row, image, mask = manifest.rows[index], manifest.images[index], manifest.masks[index]
    try:
        radiograph = read_radiograph(image, voi=config.voi)
        lungs = read_mask(mask) if config.lung_box and mask else None
    except ImageError as error:
        return ImageError(f"{row}: {error}")
    try:
        return preprocess(radiograph, lungs, config, size)
    except ImageError as error:
        return ImageError(f"{row}: {image}: {error}")


def _refuse(error: ImageError, on_bad_image: Literal["error", "skip"]) -> None:
    if on_bad_image == "error":
        raise error
    logger.warning("skipped %s", error)


def _warn_of(skipped: int, total: int) -> None:
    if skipped:
        logger.warning("%d of %d images skipped", skipped, total)


def _sweep(cache_dir: Path) -> None:
    """Remove what killed builders left behind."""
    for path in cache_dir.glob(".*.pixels.*"):
        with suppress(FileNotFoundError):  # another builder sweeps too
            if time.time() - path.stat().st_mtime > ABANDONED:
                path.unlink()
