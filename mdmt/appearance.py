"""Notice images that do not look like those of the sites, by simple statistics of the picture.

The statistics are those of the preprocessed image: its mean and contrast, the shares of black and
of white pixels, the likeness of its two halves, and how much brighter its middle is than its
border. A site's fences are Tukey's outer fences: three interquartile ranges below and above the
middle half of its images. The check finds other body parts, inverted pictures and photographs of a
screen. It does not find a disease that the sites do not have, and it is no measure of trust.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

Fences = dict[str, tuple[float, float]]
"""Lowest and highest usual value by statistic."""

FEWEST_IMAGES = 20
"""A site with fewer images has no fences."""
SAMPLE = 200
"""Largest number of images of a site that its fences are computed from."""
_NARROWEST = 0.02
"""Smallest interquartile range, for sites whose images are all alike."""
_BLACK, _WHITE = 5, 250


def picture_statistics(pixels: NDArray[np.uint8]) -> dict[str, NDArray[np.float64]]:
    """Return the statistics of preprocessed images, (N, S, S): name → (N,)."""
    values = pixels.astype(np.float64) / 255
    count, side = len(values), values.shape[-1]
    frame, quarter = max(side // 10, 1), side // 4
    inner = values[:, frame:-frame, frame:-frame]
    border = values.sum(axis=(1, 2)) - inner.sum(axis=(1, 2))
    middle = values[:, quarter : side - quarter, quarter : side - quarter].mean(axis=(1, 2))
    centred = values - values.mean(axis=(1, 2), keepdims=True)
    power = np.maximum((centred**2).sum(axis=(1, 2)), 1e-12)
    return {
        "brightness": values.mean(axis=(1, 2)),
        "contrast": values.std(axis=(1, 2)),
        "black": (pixels <= _BLACK).reshape(count, -1).mean(axis=1),
        "white": (pixels >= _WHITE).reshape(count, -1).mean(axis=1),
        "symmetry": (centred * centred[:, :, ::-1]).sum(axis=(1, 2)) / power,
        "middle": middle - border / (side**2 - inner[0].size),
    }


def fences(pixels: NDArray[np.uint8]) -> Fences | None:
    """Return the fences of a site's images, (N, S, S); None for too few images."""
    if len(pixels) < FEWEST_IMAGES:
        return None
    chosen = np.linspace(0, len(pixels) - 1, min(len(pixels), SAMPLE)).astype(np.intp)
    found = {}
    for name, values in picture_statistics(pixels[chosen]).items():
        low, high = np.quantile(values, (0.25, 0.75))
        reach = 3 * max(high - low, _NARROWEST)
        found[name] = (float(low - reach), float(high + reach))
    return found


def unusual(pixels: NDArray[np.uint8], sites: Mapping[str, Fences]) -> list[str]:
    """Name the statistics by which each image differs from the images of every site.

    Parameters
    ----------
    pixels : ndarray, uint8, (N, S, S)
    sites : mapping of str to Fences

    Returns
    -------
    list of str, length N
        Of the site that the image is most alike; empty for a usual image.
    """
    statistics = picture_statistics(pixels)
    found = []
    for index in range(len(pixels)):
        by_site = [
            [
                f"{name} {statistics[name][index]:.2f} (usual {low:.2f} to {high:.2f})"
                for name, (low, high) in of_site.items()
                if not low <= statistics[name][index] <= high
            ]
            for of_site in sites.values()
        ]
        fewest = min(map(len, by_site), default=0)
        alike = next((reasons for reasons in by_site if len(reasons) == fewest), [])
        found.append(", ".join(alike))
    return found
