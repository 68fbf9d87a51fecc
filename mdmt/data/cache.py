"""The cache of preprocessed images: images are decoded once, then every process memory-maps them.

A cache file contains M images as M·size² bytes, then their M positions in the manifest as 64-bit
little-endian integers. M follows from the length of the file. The name of the file is the hash of
everything that the pixels depend on. The file is renamed into place when it is complete, so several
processes can build it at the same time.

There is one file per cache, not several parts: 5,000 images of 224² pixels need a quarter of a
gigabyte, all readers share the memory pages, and parts could be inconsistent with each other.
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
from mdmt.errors import DataError, ImageError, PolicyError
from mdmt.files import atomic_path

if TYPE_CHECKING:
    from mdmt.config import PreprocessingConfig

FORMAT = 1
"""Version of the pixels. Increase it if the same image files would give other pixels."""
POSITION = np.dtype("<i8")
ABANDONED = 3600.0
"""Seconds without a write after which an unfinished file is deleted: its process has died."""

logger = logging.getLogger(__name__)

Pixels = NDArray[np.uint8]
Loaded = Pixels | ImageError
Load = Callable[[int], Loaded]
"""Position in the manifest → one preprocessed image, or the error."""


def open_pixels(
    manifest: Manifest,
    config: PreprocessingConfig,
    size: int,
    *,
    cache_dir: Path,
    workers: int = 0,
    on_bad_image: Literal["error", "skip"] = "error",
    progress: Callable[[int, int], None] | None = None,
    max_gigabytes: float | None = None,
) -> tuple[NDArray[np.uint8], NDArray[np.intp]]:
    """Memory-map the preprocessed images of a manifest. Build the cache if there is none.

    The key of a cache contains the path, length and modification time of each file, `size`, and the
    fields of `config` that change pixels, so a cache is never out of date. Each call tries skipped
    images again, because a missing decoder may have been installed.

    Parameters
    ----------
    manifest : Manifest
    config : PreprocessingConfig
    size : int
        Side length of the images in pixels.
    cache_dir : Path
        Several sites can share it.
    workers : int
        Threads that decode images during a build; 0 decodes in the calling thread.
    on_bad_image : {"error", "skip"}
        Raise an error for the first unusable image, or skip unusable images with a warning.
    progress : callable, optional
        Called with (done, total) images after each image of a build.
    max_gigabytes : float, optional
        Build no cache with which the folder would have more, in 10^9 bytes.

    Returns
    -------
    pixels : memmap, uint8, (M, size, size), read-only
    positions : ndarray, intp, (M,)
        Ascending positions of the M images in the manifest.

    Raises
    ------
    ImageError
        An image is unusable and `on_bad_image` is ``error``. The message names its row.
    DataError
        No image is usable, or a file changed during the build.
    PolicyError
        The cache would be too large. Nothing was built.
    """
    key = cache_key(manifest, config, size)
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
    if max_gigabytes is not None:
        _check_space(
            cache_dir, path, len(manifest) * (size * size + POSITION.itemsize), max_gigabytes
        )
    with atomic_path(path) as temporary:
        _build(temporary, load, len(manifest), workers, on_bad_image, progress)
        if cache_key(manifest, config, size) != key:
            raise DataError("image files changed during the build; run the command again")
    return _mapped(path, size)


def default_cache_dir() -> Path:
    """Return the folder of the cache files of sites without a `cache_dir`."""
    return Path("~/.cache/mdmt").expanduser()


def cache_key(manifest: Manifest, config: PreprocessingConfig, size: int) -> str:
    """Return the name of a cache file without its suffix; see `open_pixels`."""
    masks = manifest.masks if config.lung_box else (None,) * len(manifest)
    files = [[_state(path) for path in paths] for paths in (manifest.images, masks)]
    changing = config.model_dump(mode="json", exclude={"mean", "std"})
    return hashlib.sha256(json.dumps([FORMAT, changing, size, files]).encode()).hexdigest()


def _check_space(cache_dir: Path, path: Path, needed: int, max_gigabytes: float) -> None:
    """Refuse a cache of `needed` bytes at `path` that does not fit beside the others.

    The message does not contain the number of images.
    """
    others = sum(other.stat().st_size for other in cache_dir.glob("*.pixels") if other != path)
    if others + needed > max_gigabytes * 1e9:
        raise PolicyError(
            f"policy: max_cache allows {max_gigabytes:g} GB, the images of this federation need"
            " more with what the cache folder has; the engineer of this site can clear it"
        )


def _state(path: Path | None) -> tuple[str, int, int] | None:
    """Return what identifies the content of a file: path, length and modification time."""
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
            raise DataError(f"none of {total} images is usable; mdmt validate lists the reasons")
        file.write(np.array(positions, dtype=POSITION).tobytes())
    _warn_of(total - len(positions), total)


def _in_order(load: Load, total: int, workers: int) -> Generator[Loaded]:
    """Yield the images in order. At most two images per worker are in memory."""
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
        logger.warning("skipped %d of %d images", skipped, total)


def _sweep(cache_dir: Path) -> None:
    """Delete unfinished files of builds whose process has died."""
    for path in cache_dir.glob(".*.pixels.*"):
        with suppress(FileNotFoundError):  # another process deletes it too
            if time.time() - path.stat().st_mtime > ABANDONED:
                path.unlink()
