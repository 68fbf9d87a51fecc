"""Exact recovery of an image from the gradient of a vision transformer for one image.

With E the patch embedding, token i is E p_i + pos_i. So dL/dpos_i = d_i and dL/dE = Σ_i d_i p_iᵀ,
where p_i are the pixels of patch i. Both gradients are in the update, and one linear solve gives
the patches (Lu et al., APRIL, CVPR 2022).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from mdmt.config import FederationConfig

from .hospital import Hospital, initial_arrays
from .recipes import TASK, federation, one_image

RATE = 1e3
"""A large rate: the update is then the gradient, without the rounding of the weights."""


def recipe() -> FederationConfig:
    """One image, one step: nobody else's image is in the gradient."""
    return federation(model={"backbone": "test_vit", "image_size": 64}, training=one_image(lr=RATE))


def recipe_of_two_tasks() -> FederationConfig:
    """An ordinary recipe with one step of 16 images; few patients have a label of a task."""
    classes = {"kind": "classification", "classes": ["MILD", "SEVERE"]}
    finding = {"kind": "classification", "classes": ["NO", "YES"]}
    return federation(
        model={"backbone": "test_vit", "image_size": 64},
        tasks={TASK: classes, "finding": finding},
        training={"rounds": 15, "local_steps": 1, "batch_size": 16, "optimizer": {"name": "sgd"}},
    )


def attack(victim: Hospital) -> float:
    """Return the fraction of pixels that are equal to those of a training image."""
    sent = initial_arrays(victim.asked)
    return score(sent, victim.train(sent).arrays, victim)


def attack_with_coefficients(victim: Hospital) -> float:
    """Give the task that all patients have a coefficient of 0, so that few are left in a batch.

    In some round this is one patient, and the update is that of one image.
    """
    sent = initial_arrays(victim.asked)
    coefficients = {TASK: 0.0, "finding": 1.0}
    scores = []
    for number in range(1, victim.asked.training.rounds + 1):
        # A new run: its heads have their initial values.
        got = victim.train(sent, run=number, number=number, coefficients=coefficients).arrays
        scores.append(score(sent, got, victim))
    return max(scores)


def score(
    sent: dict[str, NDArray[np.float32]], got: dict[str, NDArray[np.float32]], victim: Hospital
) -> float:
    """Solve for the image of an update, and compare it with the training images."""
    rate = victim.asked.training.optimizer.lr

    def gradient(name: str) -> NDArray[np.float64]:
        return (sent[name].astype(np.float64) - got[name]) / rate

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
