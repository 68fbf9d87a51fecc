"""What every attacker has: radiographs of other patients."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from mdmt.data.synthetic_radiograph import draw_radiograph

Images = NDArray[np.float64]


@lru_cache
def public_images(count: int, size: int) -> Images:
    """Radiographs that are not the victim's, in [0, 255], (count, size, size)."""
    rng = np.random.default_rng(2024)
    drawn = [
        draw_radiograph(rng.integers(0, 4, 6), rng, size=size, noise=0.05) for _ in range(count)
    ]
    low, high = np.percentile(drawn, (2, 98), axis=(1, 2), keepdims=True)
    scaled: Images = np.clip((drawn - low) / (high - low), 0, 1) * 255
    return scaled


def likeness(image: Images, others: Images, mean: Images) -> Images:
    """Correlation of `image` with each of `others`, without what all radiographs share."""
    one = (image - mean).ravel()
    many = (others - mean).reshape(len(others), -1)
    one, many = one - one.mean(), many - many.mean(axis=1, keepdims=True)
    norms = np.linalg.norm(many, axis=1) * np.linalg.norm(one)
    cosines: Images = many @ one / np.maximum(norms, 1e-12)
    return cosines
