"""Radiograph → the square 8-bit image a backbone sees."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from mdmt.errors import ImageError

if TYPE_CHECKING:
    from mdmt.config import PreprocessingConfig

__all__ = ["lung_box", "preprocess"]

Box = tuple[float, float, float, float]
"""Left, top, right, bottom, in pixels from the left upper corner of the left upper pixel."""
MARGIN = 0.05
"""What the lung box gains on every side, as a fraction of its width or height."""
ENOUGH = 2**20
"""Pixels from which percentiles are taken; of a larger image, every k-th row and column."""


def preprocess(
    image: NDArray[np.float32],
    mask: NDArray[np.bool_] | None,
    config: PreprocessingConfig,
    size: int,
) -> NDArray[np.uint8]:
    """Clip at percentiles, crop to the lungs if asked, and resize to a square.

    Parameters
    ----------
    image : ndarray, float32, (H, W)
        As `read_radiograph` gives it.
    mask : ndarray, bool, (h, w), optional
        Lungs; needed for `config.lung_box`, ignored otherwise. A mask of another shape is taken
        to cover the whole image.
    config : PreprocessingConfig
        Its percentiles are those of the whole image (beyond `ENOUGH` pixels, of a regular
        sample of it); the lower becomes 0, the upper 255.
    size : int
        Side of the result in pixels.

    Returns
    -------
    ndarray, uint8, (size, size)
        With `config.keep_aspect` the longer side fills the square and black pads the shorter.

    Raises
    ------
    ImageError
        The two percentiles are equal, or the lung box has no mask. The message does not name
        the image: the caller does.
    """
    from PIL import Image

    step = max(1, math.isqrt(image.size // ENOUGH))
    low, high = np.percentile(image[::step, ::step], config.clip)
    if not low < high:
        raise ImageError(
            f"percentiles {config.clip[0]:g} and {config.clip[1]:g} are both {low:g}:"
            " nothing is left of it; widen preprocessing.clip or remove its row"
        )
    height, width = image.shape
    box: Box = (0, 0, width, height)
    if config.lung_box:
        if mask is None:
            raise ImageError("preprocessing.lung_box needs a lung mask, and there is none for it")
        box = lung_box(mask, width, height)
    columns, rows = _fitted(box, size) if config.keep_aspect else (size, size)
    # Clipped first, so that a burnt-in letter does not bleed into its surroundings.
    clipped = Image.fromarray(np.clip(image, np.float32(low), np.float32(high)))
    # Pillow widens the bilinear kernel when it reduces: this is the antialiasing.
    resized = np.asarray(clipped.resize((columns, rows), Image.Resampling.BILINEAR, box=box))
    levels = np.rint(np.clip((resized - low) / (high - low), 0, 1) * 255)
    square = np.zeros((size, size), dtype=np.uint8)
    top, left = (size - rows) // 2, (size - columns) // 2
    square[top : top + rows, left : left + columns] = levels
    return square


def lung_box(mask: NDArray[np.bool_], width: int, height: int) -> Box:
    """Box around the two largest 4-connected components of a mask.

    It gains `MARGIN` on every side, then grows around its centre into a square, and is cut at
    the borders of the image (where it is then no square any more).

    Parameters
    ----------
    mask : ndarray, bool, (H, W)
        With at least one True, as `read_mask` makes sure.
    width, height : int
        Of the image, which the mask covers whatever its own shape is.

    Returns
    -------
    tuple of float
        Left, top, right, bottom, in pixels of the image.
    """
    from scipy import ndimage

    components, _ = ndimage.label(mask)
    areas = np.bincount(components.ravel())[1:]  # without the background
    boxes = ndimage.find_objects(components)
    lungs = [boxes[index] for index in np.argsort(-areas, kind="stable")[:2]]
    down, across = height / mask.shape[0], width / mask.shape[1]
    top, bottom = min(y.start for y, _ in lungs) * down, max(y.stop for y, _ in lungs) * down
    left, right = min(x.start for _, x in lungs) * across, max(x.stop for _, x in lungs) * across
    half = (1 / 2 + MARGIN) * max(bottom - top, right - left)
    x, y = (left + right) / 2, (top + bottom) / 2
    return max(x - half, 0), max(y - half, 0), min(x + half, width), min(y + half, height)


def _fitted(box: Box, size: int) -> tuple[int, int]:
    """Columns and rows of the largest picture of the box's aspect in a square."""
    width, height = box[2] - box[0], box[3] - box[1]
    scale = size / max(width, height)
    return max(1, round(width * scale)), max(1, round(height * scale))
