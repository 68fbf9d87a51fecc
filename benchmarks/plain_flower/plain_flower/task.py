"""Model, data, training and evaluation, without Flower."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
from torch import Tensor, nn


def load_work(folder: str) -> dict[str, Any]:
    """What is to be done."""
    work: dict[str, Any] = json.loads((Path(folder) / "work.json").read_text())
    return work


def build_model(work: dict[str, Any]) -> nn.Module:
    """The model that all clients train."""
    model: nn.Module = timm.create_model(work["backbone"], in_chans=1, num_classes=2)
    return model


def load_data(folder: str, partition: int, split: str) -> tuple[Tensor, Tensor]:
    """A client's images and labels."""
    with np.load(Path(folder) / f"site-{partition:03d}.npz") as arrays:
        chosen = arrays["splits"] == split
        images = torch.from_numpy(arrays["images"][chosen]).unsqueeze(1).float()
        return images.div_(127.5).sub_(1), torch.from_numpy(arrays["labels"][chosen])


def train(model: nn.Module, data: tuple[Tensor, Tensor], steps: int, batch: int) -> float:
    """SGD steps over random batches; their mean loss."""
    images, labels = data
    model.train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    order, total = torch.randperm(len(images)), 0.0
    for step in range(steps):
        chosen = order[step * batch : (step + 1) * batch]
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(images[chosen]), labels[chosen])
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        total += loss.item()
    return total / max(1, steps)


@torch.no_grad()
def test(model: nn.Module, data: tuple[Tensor, Tensor], batch: int) -> float:
    """Accuracy."""
    model.eval()
    right = 0
    for start in range(0, len(data[1]), batch):
        images, labels = (part[start : start + batch] for part in data)
        right += int((model(images).argmax(1) == labels).sum())
    return right / len(data[1])
