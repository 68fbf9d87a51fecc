"""Random changes of training images, and what they do to the targets."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as F

from mdmt.config import AugmentationConfig
from mdmt.errors import ConfigError
from mdmt.tasks import Task

__all__ = ["Augmentation"]


class Augmentation:
    """Flip, shift, zoom, rotate and deform images, each sample by itself.

    Each change happens to a sample with probability `config.p`, independently of the others.
    Shift, zoom and rotation are one affine map, so that a sample is resampled once for the
    three. What comes in from outside the image is black. A flip also exchanges the targets
    that the task's `mirror` names. The elastic deformation is that of Simard et al. (ICDAR
    2003): uniform noise in [-1, 1] smoothed with a Gaussian of `config.elastic_sigma` pixels,
    times α pixels.

    Parameters
    ----------
    config : AugmentationConfig
    tasks : mapping of str to Task
        Label spaces of the targets.

    Raises
    ------
    ConfigError
        `config.flip` is set and a task of several outputs does not say what a flip does.
    """

    def __init__(self, config: AugmentationConfig, tasks: Mapping[str, Task]) -> None:
        for name, task in tasks.items():
            if config.flip and task.mirror_permutation() is None:
                raise ConfigError(
                    f"augmentation.flip: task {name} declares no mirror; add tasks.{name}.mirror"
                )
        self.config = config
        self.tasks = tasks

    def __call__(
        self, images: Tensor, targets: dict[str, Tensor], generator: torch.Generator
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Change a batch; the arguments keep their values.

        Parameters
        ----------
        images : Tensor, float, (N, C, S, S)
            In [0, 1], on any device.
        targets : dict of str to Tensor, float, (N, width of the task)
        generator : torch.Generator
            On the CPU; the only source of randomness.

        Returns
        -------
        images : Tensor, float, (N, C, S, S)
        targets : dict of str to Tensor, float, (N, width of the task)
        """
        config = self.config
        if not config.active:
            return images, targets
        # Drawn for every change, configured or not: switching one off leaves the others as
        # they were.
        configured = [config.flip, config.shift, config.zoom, config.rotation, config.elastic]
        happens = torch.rand(len(images), 5, generator=generator) < config.p
        happens &= torch.tensor([bool(change) for change in configured])
        amounts = torch.rand(len(images), 5, generator=generator)
        if config.flip:
            images, targets = self._flipped(images, targets, happens[:, 0])
        images = images.clone()
        side = images.shape[-1]
        for index in torch.nonzero(happens[:, 1:4].any(dim=1)).flatten().tolist():
            shift, zoom, turn = happens[index, 1:4].tolist()
            across, down, scale, angle, _ = (2 * amounts[index] - 1).tolist()
            images[index] = F.affine(
                images[index],
                angle=config.rotation * angle * turn,
                translate=[config.shift * side * step * shift for step in (across, down)],
                scale=1 + config.zoom * scale * zoom,
                shear=[0.0, 0.0],
                interpolation=InterpolationMode.BILINEAR,
            )
        if config.elastic:
            chosen = torch.nonzero(happens[:, 4]).flatten()
            low, high = config.elastic
            alphas = low + (high - low) * amounts[chosen, 4]
            moves = self._displacements(alphas, side, generator, images.device)
            for index, move in zip(chosen.tolist(), moves, strict=True):
                images[index] = F.elastic(
                    images[index], move[None], interpolation=InterpolationMode.BILINEAR
                )
        return images, targets

    def _flipped(
        self, images: Tensor, targets: dict[str, Tensor], flip: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        def where(flipped: Tensor, kept: Tensor) -> Tensor:
            choice = flip.to(kept.device).view(-1, *[1] * (kept.ndim - 1))
            return torch.where(choice, flipped, kept)

        return where(images.flip(-1), images), {
            name: where(self.tasks[name].mirrored(target), target)
            for name, target in targets.items()
        }

    def _displacements(
        self, alphas: Tensor, side: int, generator: torch.Generator, device: torch.device
    ) -> Tensor:
        """Displacements (n, side, side, 2) in units of half a side, as `F.elastic` takes them."""
        noise = 2 * torch.rand(len(alphas), 2, side, side, generator=generator) - 1
        # A Gaussian is separable. Two matrix products are ten times as fast as convolutions,
        # and a row that sums to 1 needs no padding at the borders.
        places = torch.arange(side, device=device) / self.config.elastic_sigma
        gaussian = torch.exp(-((places[:, None] - places) ** 2) / 2)
        gaussian /= gaussian.sum(dim=1, keepdim=True)
        smooth = gaussian @ noise.to(device) @ gaussian.T
        pixels = smooth * alphas.to(device).view(-1, 1, 1, 1)
        return (pixels * 2 / side).permute(0, 2, 3, 1)
