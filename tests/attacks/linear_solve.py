"""Exact recovery of an image from the gradient of a vision transformer for one image.

With E the patch embedding, token i is E p_i + pos_i. So dL/dpos_i = d_i and dL/dE = Σ_i d_i p_iᵀ,
where p_i are the pixels of patch i. Both gradients are in the update, and one linear solve gives
the patches (Lu et al., APRIL, CVPR 2022).
"""

from __future__ import annotations

import numpy as np

from mdmt.config import FederationConfig

from .hospital import Hospital, initial_arrays
from .recipes import federation, one_image

RATE = 1e3
"""A large rate: the update is then the gradient, without the rounding of the weights."""


def recipe() -> FederationConfig:
    """One image, one step: nobody else's image is in the gradient."""
    return federation(
        model={"backbone": "test_vit", "image_size": 64},
        training=one_image(lr=RATE),
    )


def attack(victim: Hospital) -> float:
    """Return the fraction of pixels that are equal to those of a training image."""
    sent = initial_arrays(victim.asked)
    got = victim.train(sent).arrays

    def gradient(name: str) -> np.ndarray:
        return (sent[name].astype(np.float64) - got[name]) / RATE

    embedding = gradient("backbone.patch_embed.proj.weight")
    width, _, patch, _ = embedding.shape
    positions = gradient("backbone.pos_embed")[0, 1:]
    patches = np.linalg.lstsq(positions.T, embedding.reshape(width, -1), rcond=None)[0]
    side = victim.asked.model.image_size // patch
    image = (
        patches.reshape(side, side, patch, patch).transpose(0, 2, 1, 3).reshape(side * patch, -1)
    )
    guess = np.clip(np.rint((image * 0.5 + 0.5) * 255), 0, 255)
    equal: float = (victim.images == guess).mean(axis=(1, 2)).max()
    return equal
