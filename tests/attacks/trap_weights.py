"""Trap weights: arrays that sort the patches of a batch into bins, one patch in most of them.

The first block of a vision transformer gets a layer whose row k is active for patches brighter
than t_k. The difference of the gradients of two rows is that of the patches between t_k and
t_k+1; where this is one patch, the gradient is the patch, times a number. The recipe is an ordinary
one, and the batch has all patients of the hospital (Fowl et al., Robbing the Fed, ICLR 2022; here
without a change of the architecture).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.fft import idctn

from mdmt.config import FederationConfig

from .hospital import Hospital, initial_arrays
from .public_images import public_images
from .recipes import federation

Floats = NDArray[np.float64]
Named = dict[str, NDArray[np.float32]]

PATCH, WIDTH, ROWS = 16, 64, 192
SHARP = 300.0
"""Slope of the rows: how sharply a bin ends."""
GAP = 8.0
"""Channels 0 and 1 have the values ±GAP, from which the scale of a patch follows."""
CLOSE = 2.0
"""A patch was read if its mean error is below this, of 255."""
_LAYER = "backbone.blocks.0.mlp.fc1.weight"


def recipe() -> FederationConfig:
    """The ordinary recipe with a small vision transformer."""
    return federation(model={"backbone": "test_vit", "image_size": 32})


def in_round_1(victim: Hospital) -> float:
    """Send the trap in the first round. Return the fraction of all patches that were read."""
    sent = trap(initial_arrays(victim.asked))
    return score(sent, victim.train(sent).arrays, victim)


def in_round_2(victim: Hospital) -> float:
    """Send it in the second round, after an honest first one."""
    first = victim.train(initial_arrays(victim.asked)).arrays
    sent = trap(first)
    return score(sent, victim.train(sent, number=2).arrays, victim)


def trap(arrays: Named) -> Named:
    """Return arrays of the same shapes with the trap."""
    made = {k: v.copy() for k, v in arrays.items()}
    for name, array in made.items():
        if ".attn." in name or ".mlp." in name or name.endswith(("cls_token", "pos_embed")):
            array[:] = 0  # all that is not set below passes its input on
        elif ".norm" in name:
            array[:] = name.endswith("weight")
    # Channels of a patch: ±GAP, twice its brightness, and its other frequencies.
    weight, bias = made[_key("patch_embed.proj.weight")], made[_key("patch_embed.proj.bias")]
    weight[:2], weight[2, 0], weight[3:, 0] = 0, frequencies()[0], frequencies()
    bias[:] = 0
    bias[:2] = GAP, -GAP
    made[_key("pos_embed")][0, 0, 2] = -1  # the class token is darker than every patch
    made[_LAYER][:, 2] = SHARP
    made[_key("blocks.0.mlp.fc1.bias")][:] = -SHARP * thresholds()
    direction = np.random.default_rng(0).normal(0, 0.3, WIDTH)
    made[_key("blocks.0.mlp.fc2.weight")][:] = direction[:, None] * signs()
    # The second block shows all patches to the class token, from which the features are taken.
    made[_key("blocks.1.attn.qkv.weight")][2 * WIDTH :] = np.eye(WIDTH)
    made[_key("blocks.1.attn.proj.weight")][:] = np.eye(WIDTH)
    return made


def read(sent: Named, got: Named, rate: float) -> Floats:
    """Return the patches in an update, in [0, 255], (n, PATCH, PATCH); most are of one image."""
    rows = (sent[_LAYER].astype(np.float64) - got[_LAYER]) / rate * signs()[:, None]
    bins = rows[:-1] - rows[1:]
    scale = bins[:, 0] - bins[:, 1]
    bins, scale = bins[np.abs(scale) > 1e-12], scale[np.abs(scale) > 1e-12]
    tokens = bins / scale[:, None] * 2 * GAP
    tokens -= tokens[:, :2].mean(axis=1, keepdims=True)
    return _clip((np.einsum("nk,kpq->npq", tokens[:, 3:], frequencies()) + 1) * 127.5)


def score(sent: Named, got: Named, victim: Hospital) -> float:
    """Return the fraction of the training patches that were read."""
    found = read(sent, got, victim.asked.training.optimizer.lr)
    true = _clip(np.einsum("nk,kpq->npq", _project(patches(victim.images)), frequencies()))
    error = np.abs(found[:, None] - true[None]).mean(axis=(2, 3))
    return float((error.min(axis=0) < CLOSE).mean()) if len(found) else 0.0


def patches(images: Floats) -> Floats:
    """Cut images (N, S, S) into patches (n, PATCH, PATCH)."""
    side = images.shape[-1] // PATCH
    cut = images.reshape(-1, side, PATCH, side, PATCH)
    return cut.transpose(0, 1, 3, 2, 4).reshape(-1, PATCH, PATCH)


def frequencies() -> Floats:
    """The lowest frequencies of a patch: an orthonormal basis, (WIDTH - 3, PATCH, PATCH)."""
    order = sorted((i + j, i, j) for i in range(PATCH) for j in range(PATCH))[: WIDTH - 3]
    unit = np.zeros((len(order), PATCH, PATCH))
    for row, (_, i, j) in enumerate(order):
        unit[row, i, j] = 1
    basis: Floats = idctn(unit, axes=(1, 2), norm="ortho")
    return basis


def thresholds() -> Floats:
    """Borders of the bins: quantiles of the brightness of public patches, as the layer sees it."""
    content = _project(patches(public_images(150, 2 * PATCH)) / 127.5 - 1)
    gap = np.full((len(content), 1), GAP)
    tokens = np.concatenate([gap, -gap, content[:, :1], content], axis=1)
    normalised = (tokens[:, 2] - tokens.mean(axis=1)) / tokens.std(axis=1)
    return np.quantile(normalised, np.linspace(0, 1, ROWS))


def signs() -> NDArray[np.int64]:
    """Signs of the rows, so that the outputs of a bright patch cancel."""
    return np.array([1, -1, -1, 1])[np.arange(ROWS) % 4]


def _project(cut: Floats) -> Floats:
    return np.einsum("npq,kpq->nk", cut, frequencies())


def _clip(pixels: Floats) -> Floats:
    return np.clip(pixels, 0, 255)


def _key(name: str) -> str:
    return f"backbone.{name}"
