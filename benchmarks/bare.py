"""The bare PyTorch loop: what the same steps cost without any federation, one site after another.

``python -m benchmarks.bare FOLDER [THREADS]``; without THREADS torch chooses. It knows nothing of
our packages.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
from torch import Tensor, nn

__all__ = ["build", "evaluate", "load", "train"]

Change = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]


def load(file: Path, split: str) -> tuple[Tensor, Tensor]:
    """Images float32 (N, 1, S, S) in [-1, 1] and labels (N,) of a split, in memory."""
    with np.load(file) as arrays:
        chosen = arrays["splits"] == split
        images = torch.from_numpy(arrays["images"][chosen]).unsqueeze(1).float()
        return images.div_(127.5).sub_(1), torch.from_numpy(arrays["labels"][chosen])


def build(backbone: str) -> nn.Module:
    """A timm model of one channel and two classes."""
    model: nn.Module = timm.create_model(backbone, in_chans=1, num_classes=2)
    return model


def train(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    steps: int,
    batch: int,
    change: Change = lambda images, labels: (images, labels),
) -> None:
    """SGD with momentum over random batches; `change` augments one."""
    model.train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    order = torch.randperm(len(images))
    for step in range(steps):
        chosen = order[step * batch : (step + 1) * batch]
        x, y = change(images[chosen], labels[chosen])
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()  # type: ignore[no-untyped-call]
        optimizer.step()


@torch.inference_mode()
def evaluate(model: nn.Module, images: Tensor, labels: Tensor, batch: int) -> float:
    """Accuracy."""
    model.eval()
    right = 0
    for start in range(0, len(images), batch):
        outputs = model(images[start : start + batch])
        right += int((outputs.argmax(1) == labels[start : start + batch]).sum())
    return right / max(1, len(images))


def main(folder: Path, threads: int | None) -> None:
    """Validate and train at each site in each round, then validate and test once."""
    if threads is not None:
        torch.set_num_threads(threads)
    work: dict[str, Any] = json.loads((folder / "work.json").read_text())
    files = sorted(folder.glob("site-*.npz"))
    data = [{s: load(file, s) for s in ("train", "val", "test")} for file in files]
    model, batch = build(work["backbone"]), work["batch"]
    rounds = []
    for _ in range(work["rounds"]):
        started = time.monotonic()
        for site in data:
            evaluate(model, *site["val"], batch)
            train(model, *site["train"], work["steps"], batch)
        rounds.append(time.monotonic() - started)
    accuracy = [evaluate(model, *site[s], batch) for site in data for s in ("val", "test")]
    said = {"rounds": rounds, "accuracy": accuracy, "threads": torch.get_num_threads()}
    sys.stdout.write(json.dumps(said) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else None)
