"""Gradient inversion: search for the image whose gradient is that of the update.

The search runs over the principal components of public radiographs, which makes it fast and
plausible (Geiping et al., NeurIPS 2020, with a prior). Every branch of the network is switched on
by the sent weights, so that all of its gradients tell something.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from mdmt.config import FederationConfig
from mdmt.models import build_model, set_arrays

from .hospital import Hospital, first_image, initial_arrays
from .public_images import likeness, public_images
from .recipes import TASK, federation, one_image

PUBLIC, COMPONENTS, STEPS, RATE = 150, 40, 80, 0.3


def recipe() -> FederationConfig:
    """The ordinary recipe with batches of one image."""
    return federation(training=one_image())


def attack(victim: Hospital) -> float:
    """Return the correlation with the true image, or 0 if another image is closer."""
    config = victim.asked
    sent = initial_arrays(config)
    sent = {k: np.ones_like(v) if _is_scale(k, v) else v for k, v in sent.items()}
    got = victim.train(sent).arrays
    lr = config.training.optimizer.lr
    target = {k: torch.from_numpy((sent[k] - got[k]) / lr) for k in sent}
    model = build_model(config, (TASK,), weights=False).eval()
    set_arrays(model, sent)
    named = [(n, p) for n, p in model.backbone.named_parameters() if target[f"backbone.{n}"].any()]
    parameters = [p for _, p in named]
    wanted = [target[f"backbone.{name}"] for name, _ in named]

    def distance(image: Tensor, label: int) -> Tensor:
        loss = cross_entropy(model(image[None, None])[TASK], torch.tensor([label]))
        found = torch.autograd.grad(loss, parameters, create_graph=True)
        parts = [((f - t) ** 2).sum() / (t**2).sum() for f, t in zip(found, wanted, strict=True)]
        return torch.stack(parts).sum().log()

    image = _search(distance, public_images(PUBLIC, config.model.image_size))
    return score(image, victim.images, first_image(victim, 1))


def score(image: np.ndarray, images: np.ndarray, true: int) -> float:
    """The likeness to the image of the round, or 0 if another patient's image is more alike."""
    mean = public_images(PUBLIC, image.shape[-1]).mean(axis=0)
    found = likeness(image, images, mean)
    return float(found[true]) if found.argmax() == true else 0.0


def _search(distance: Callable[[Tensor, int], Tensor], public: np.ndarray) -> np.ndarray:
    scaled = public / 127.5 - 1
    mean = scaled.mean(axis=0)
    _, sizes, axes = np.linalg.svd((scaled - mean).reshape(len(public), -1), full_matrices=False)
    axes = sizes[:COMPONENTS, None] / np.sqrt(len(public)) * axes[:COMPONENTS]
    base, directions = torch.tensor(mean).float(), torch.tensor(axes).float()
    label = min((0, 1), key=lambda label: distance(base, label).item())
    z = torch.zeros(COMPONENTS, requires_grad=True)
    optimizer = torch.optim.Adam([z], RATE)
    best, closest = base, float("inf")
    for step in range(STEPS):
        image = (base + (z @ directions).view_as(base)).clamp(-1, 1)
        loss = distance(image, label)
        if loss.item() < closest:
            best, closest = image.detach(), loss.item()
        optimizer.zero_grad()
        loss.backward()
        optimizer.param_groups[0]["lr"] = RATE * (1 - step / STEPS)
        optimizer.step()
    return (best.numpy() + 1) * 127.5


def _is_scale(name: str, array: np.ndarray) -> bool:
    """Whether this is the scale of a normalisation layer. The last ones of blocks start at 0."""
    return array.ndim == 1 and name.endswith(".weight")
