"""Convert a radiograph to the square 8-bit image that a backbone takes."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from mdmt.errors import ImageError

if TYPE_CHECKING:
    from mdmt.config import PreprocessingConfig

Box = tuple[float, float, float, float]
"""Left, top, right, bottom, in pixels from the upper left corner of the upper left pixel."""
MARGIN = 0.05
"""Margin that the lung box gets on every side, as a fraction of its width or height."""
ENOUGH = 2**20
"""Pixels that percentiles need. In a larger image every k-th row and column is used."""


def preprocess(
    image: NDArray[np.float32],
    mask: NDArray[np.bool_] | None,
    config: PreprocessingConfig,
    size: int,
) -> NDArray[np.uint8]:
    """Clip at percentiles, crop to the lungs if configured, and resize to a square.

    Parameters
    ----------
    image : ndarray, float32, (H, W)
        From `read_radiograph`.
    mask : ndarray, bool, (h, w), optional
        Lungs; needed for `config.lung_box` only. A mask of another shape also covers the whole
        image.
    config : PreprocessingConfig
        Its percentiles are taken over the whole image (over a regular sample if it has more than
        `ENOUGH` pixels). The lower becomes 0, the upper 255.
    size : int
        Side length of the result in pixels.

    Returns
    -------
    ndarray, uint8, (size, size)
        With `config.keep_aspect` the longer side fills the square and the shorter one is padded
        with black.

    Raises
    ------
    ImageError
        The two percentiles are equal, or the lung box has no mask. The caller adds the name of the
        image to the message.
    """
    from PIL import Image

    step = max(1, math.isqrt(image.size // ENOUGH))
    low, high = np.percentile(image[::step, ::step], config.clip)
    if not low < high:
        raise ImageError(
            f"percentiles {config.clip[0]:g} and {config.clip[1]:g} are both {low:g}:"
            " no contrast is left; widen preprocessing.clip or remove its row"
        )
    height, width = image.shape
    box: Box = (0, 0, width, height)
    if config.lung_box:
        if mask is None:
            raise ImageError("preprocessing.lung_box needs a lung mask, but this image has none")
        box = lung_box(mask, width, height)
    columns, rows = _fitted(box, size) if config.keep_aspect else (size, size)
    # Clip first, so that a burnt-in letter does not brighten the pixels around it.
    clipped = Image.fromarray(np.clip(image, np.float32(low), np.float32(high)))
    # When Pillow reduces an image, it widens the bilinear kernel: this is the antialiasing.
    resized = np.asarray(clipped.resize((columns, rows), Image.Resampling.BILINEAR, box=box))
    levels = np.rint(np.clip((resized - low) / (high - low), 0, 1) * 255)
    square = np.zeros((size, size), dtype=np.uint8)
    top, left = (size - rows) // 2, (size - columns) // 2
    square[top : top + rows, left : left + columns] = levels
    return square


def lung_box(mask: NDArray[np.bool_], width: int, height: int) -> Box:
    """Return a square around the two largest 4-connected components of a mask.

    The bounding box gets a `MARGIN` on every side and grows around its centre to a square. The
    borders of the image cut this square.

    Parameters
    ----------
    mask : ndarray, bool, (H, W)
        With at least one True; `read_mask` checks this.
    width, height : int
        Size of the image. The mask covers it, whatever the shape of the mask is.

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
    """Return columns and rows of the largest picture with the box's aspect in a square."""
    width, height = box[2] - box[0], box[3] - box[1]
    scale = size / max(width, height)
    return max(1, round(width * scale)), max(1, round(height * scale))
