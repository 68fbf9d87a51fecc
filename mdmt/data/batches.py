"""Make batches of a cohort and convert them to the tensors that a model takes."""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mdmt.config import FederationConfig
from mdmt.data.cohort import Cohort

T = TypeVar("T")


def prefetch(items: Iterator[T]) -> Iterator[T]:
    """Yield the same items. A thread makes the next item while the caller uses the current one."""
    with ThreadPoolExecutor(1, "batches") as thread:
        end = object()
        following = thread.submit(next, items, end)
        while (item := following.result()) is not end:
            following = thread.submit(next, items, end)
            yield item  # type: ignore[misc]


def training_batches(
    indices: NDArray[np.intp], batch_size: int, steps: int, rng: np.random.Generator
) -> Iterator[NDArray[np.intp]]:
    """Yield `steps` batches. Shuffle `indices` before every pass.

    If the last batch of a pass has one image, it joins the previous batch: batch normalisation
    needs at least two.
    """
    while True:
        order = rng.permutation(indices)
        starts = range(0, len(order) - (len(order) % batch_size == 1 < len(order)), batch_size)
        for start in starts:
            stop = len(order) if start == starts[-1] else start + batch_size
            yield order[start:stop]
            steps -= 1
            if steps == 0:
                return


def joint_batches(
    strata: Sequence[tuple[NDArray[np.intp], int]],
    batch_size: int,
    steps: int,
    rng: np.random.Generator,
) -> Iterator[NDArray[np.intp]]:
    """Yield `steps` batches. Each one joins a batch of every stratum.

    Parameters
    ----------
    strata : sequence of (ndarray of int, int)
        See `Cohort.strata`. A stratum of n cohorts gives ``n * batch_size`` images, so that a step
        on pooled data uses as many images of a task as one step at each of its sites.
    batch_size, steps : int
    rng : numpy.random.Generator
    """
    if len(strata) == 1:
        ((indices, cohorts),) = strata
        yield from training_batches(indices, cohorts * batch_size, steps, rng)
        return
    streams = [
        training_batches(indices, cohorts * batch_size, steps, own)
        for (indices, cohorts), own in zip(strata, rng.spawn(len(strata)), strict=True)
    ]
    for parts in zip(*streams, strict=True):
        yield np.concatenate(parts)


def batches_per_epoch(n: int, batch_size: int) -> int:
    """Return the number of batches that `training_batches` makes of `n` images per pass."""
    return max(1, -(-n // batch_size) - (n % batch_size == 1 and n > 1))


def on_device(tensor: Tensor, device: torch.device) -> Tensor:
    """Copy a CPU tensor to `device`. The CPU does not wait for the GPU."""
    if device.type != "cuda":
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)


def load_images(cohort: Cohort, indices: NDArray[np.intp], device: torch.device) -> Tensor:
    """Return radiographs in [0, 1], torch's default dtype, shape (B, 1, S, S), on `device`."""
    images = on_device(torch.from_numpy(np.ascontiguousarray(cohort.pixels[indices])), device)
    return images.unsqueeze(1).to(torch.get_default_dtype()).div_(255.0)


def load_targets(
    cohort: Cohort, indices: NDArray[np.intp], tasks: Sequence[str], device: torch.device
) -> dict[str, Tensor]:
    """Return the targets (B, width) of the tasks that have a label in this batch.

    A task without a label is dropped here, on the CPU. Its head is then neither run nor updated.
    """
    rows = {task: cohort.manifest.targets[task][indices] for task in tasks}
    return {
        task: on_device(torch.from_numpy(values), device).to(torch.get_default_dtype())
        for task, values in rows.items()
        if np.isfinite(values).any()
    }


def normalise(images: Tensor, config: FederationConfig) -> Tensor:
    """Subtract the mean, divide by the standard deviation, and repeat the grey channel.

    Parameters
    ----------
    images : Tensor, float, (B, 1, S, S)
    config : FederationConfig

    Returns
    -------
    Tensor, float, (B, in_channels, S, S)
        In memory format channels last, which makes a training step faster. A convolution takes the
        format from its input, so the weights keep theirs.
    """
    mean, std = (
        on_device(torch.tensor(values), images.device).expand(config.model.in_channels)
        for values in (config.preprocessing.mean, config.preprocessing.std)
    )
    channels_last = (images.squeeze(1).unsqueeze(-1) - mean) / std
    return channels_last.permute(0, 3, 1, 2)
