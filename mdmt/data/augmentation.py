"""Random changes of training images and of their targets."""

import math
from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn.functional import grid_sample

from mdmt.config import AugmentationConfig
from mdmt.data.batches import on_device
from mdmt.errors import ConfigError
from mdmt.tasks import Task


class Augmentation:
    """Flip, shift, zoom, rotate and deform images. Each sample gets its own changes.

    A sample gets each change with probability `config.p`, independently of the other changes.
    Shift, zoom, rotation and deformation form one map, so that a batch is resampled once. Pixels
    from outside the image are black. A flip also exchanges the targets in the task's `mirror`. The
    elastic deformation follows Simard et al. (ICDAR 2003): uniform noise in [-1, 1], smoothed with
    a Gaussian of `config.elastic_sigma` pixels, times α pixels.

    Parameters
    ----------
    config : AugmentationConfig
    tasks : mapping of str to Task
        Label space of each target.

    Raises
    ------
    ConfigError
        `config.flip` is set, and a task with several outputs has no `mirror`.
    """

    def __init__(self, config: AugmentationConfig, tasks: Mapping[str, Task]) -> None:
        for name, task in tasks.items():
            if config.flip and task.mirror_permutation() is None:
                raise ConfigError(
                    f"augmentation.flip: task {name} has no mirror; add tasks.{name}.mirror"
                )
        self.config = config
        self.tasks = tasks

    def __call__(
        self, images: Tensor, targets: dict[str, Tensor], generator: torch.Generator
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return a changed batch. The arguments keep their values.

        Parameters
        ----------
        images : Tensor, float, (N, C, S, S)
            In [0, 1], on any device.
        targets : dict of str to Tensor, float, (N, width of the task)
        generator : torch.Generator
            On the CPU. It is the only source of randomness.

        Returns
        -------
        images : Tensor, float, (N, C, S, S)
        targets : dict of str to Tensor, float, (N, width of the task)
        """
        config = self.config
        if not config.active:
            return images, targets
        # Draw numbers for every change, configured or not: if one is switched off, the others
        # stay the same.
        configured = [config.flip, config.shift, config.zoom, config.rotation, config.elastic]
        happens = torch.rand(len(images), 5, generator=generator) < config.p
        happens &= torch.tensor([bool(change) for change in configured])
        amounts = torch.rand(len(images), 5, generator=generator)
        if config.flip:
            images, targets = self._flipped(images, targets, happens[:, 0])
        moved = torch.nonzero(happens[:, 1:].any(dim=1)).flatten()
        if len(moved) == 0:
            return images, targets
        places = self._places(happens[moved], amounts[moved], images, generator)
        moved = on_device(moved, images.device)
        grid = places.permute(0, 2, 3, 1)
        resampled = grid_sample(images[moved], grid, align_corners=False)
        return images.index_copy(0, moved, resampled), targets

    def _flipped(
        self, images: Tensor, targets: dict[str, Tensor], flip: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        def where(flipped: Tensor, kept: Tensor) -> Tensor:
            choice = on_device(flip, kept.device).view(-1, *[1] * (kept.ndim - 1))
            return torch.where(choice, flipped, kept)

        return where(images.flip(-1), images), {
            name: where(self.tasks[name].mirrored(target), target)
            for name, target in targets.items()
        }

    def _places(
        self, happens: Tensor, amounts: Tensor, images: Tensor, generator: torch.Generator
    ) -> Tensor:
        """Return where each of n samples takes its pixels from: x and y, (n, 2, side, side).

        Coordinates start in the middle of the image; their unit is half a side. The pixel at o
        shows the image at A(o + d(o)): d is the deformation, and A inverts the shift, then the
        rotation, then the zoom.
        """
        config, side, device = self.config, images.shape[-1], images.device
        shifted, zoomed, turned, deformed = happens[:, 1:].to(amounts.dtype).unbind(dim=1)
        across, down, zoom, turn, _ = (2 * amounts - 1).unbind(dim=1)
        angle = math.radians(config.rotation) * turn * turned
        cos, sin = angle.cos(), angle.sin()
        linear = torch.stack((cos, sin, -sin, cos), dim=1).view(-1, 2, 2)
        linear /= (1 + config.zoom * zoom * zoomed).view(-1, 1, 1)
        shift = 2 * config.shift * shifted * torch.stack((across, down))
        offset = -linear @ shift.T[:, :, None]
        middles = (2 * torch.arange(side) + 1) / side - 1
        columns = on_device(linear[:, :, :1] * middles, device)
        rows = on_device(linear[:, :, 1:] * middles + offset, device)
        places = columns[:, :, None, :] + rows[:, :, :, None]
        if config.elastic:
            which = torch.nonzero(deformed).flatten()
            low, high = config.elastic
            alphas = low + (high - low) * amounts[which, 4]
            moves = self._displacements(alphas, side, generator, device)
            turns = on_device(linear[which], device)
            places[on_device(which, device)] += (turns @ moves.flatten(2)).view_as(moves)
        return places

    def _displacements(
        self, alphas: Tensor, side: int, generator: torch.Generator, device: torch.device
    ) -> Tensor:
        """Return displacements along x and y, (n, 2, side, side), in half sides."""
        noise = 2 * torch.rand(len(alphas), 2, side, side, generator=generator) - 1
        # A Gaussian is separable. Two matrix products are ten times as fast as convolutions, and
        # need no padding at the borders because each row of the matrix sums to 1.
        places = torch.arange(side) / self.config.elastic_sigma
        gaussian = torch.exp(-((places[:, None] - places) ** 2) / 2)
        gaussian = on_device(gaussian / gaussian.sum(dim=1, keepdim=True), device)
        smooth = gaussian @ on_device(noise, device) @ gaussian.T
        return smooth * on_device(alphas * 2 / side, device).view(-1, 1, 1, 1)
