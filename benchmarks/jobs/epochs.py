"""Epochs with augmentation: ``loader`` reads the cache, ``memory`` holds tensors.

``python -m benchmarks.jobs.epochs loader|memory FOLDER``
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from benchmarks import bare
from benchmarks.processes import tell
from benchmarks.work import CONFIG
from mdmt.config import FederationConfig, load_federation
from mdmt.data.augmentation import Augmentation
from mdmt.data.cohort import open_cohort
from mdmt.models import build_model
from mdmt.training import train


def main(kind: str, folder: Path) -> None:
    """Time the configured number of epochs, and one before them that does not count."""
    config = load_federation(folder / CONFIG)
    torch.set_num_threads(config.training.threads)
    name = min(config.sites)
    epoch = _loader(config, name) if kind == "loader" else _memory(config, folder / f"{name}.npz")
    seconds = []
    for number in range(config.training.rounds + 1):
        started = time.monotonic()
        epoch(number)
        seconds.append(time.monotonic() - started)
    tell(rounds=seconds)


def _loader(config: FederationConfig, site: str) -> Callable[[int], object]:
    """The training loop of every site, on a cohort opened from its cache."""
    cohort = open_cohort(config.sites[site], config)
    model, device = build_model(config, ("prognosis",), weights=False), torch.device("cpu")
    coefficients = {"prognosis": 1.0}
    return lambda seed: train(
        model, cohort, config, coefficients=coefficients, seed=seed, device=device
    )


def _memory(config: FederationConfig, file: Path) -> Callable[[int], object]:
    """The bare loop on the same images and the same augmentation."""
    images, labels = bare.load(file, "train")
    images = images.add_(1).div_(2)  # what augmentation puts in from outside the image is black
    model = bare.build(config.model.backbone)
    augment = Augmentation(config.augmentation, {"prognosis": config.space("prognosis")})
    generator = torch.Generator().manual_seed(config.seed)

    def change(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        x, targets = augment(x, {"prognosis": y.float()[:, None]}, generator)
        return x.sub_(0.5).div_(0.5), targets["prognosis"][:, 0].long()

    steps = config.training.local_steps or 1
    return lambda seed: bare.train(model, images, labels, steps, config.training.batch_size, change)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
