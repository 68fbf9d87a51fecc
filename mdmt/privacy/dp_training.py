"""Training with differential privacy: DP-SGD on patients (Abadi et al. 2016).

In each step every training patient is drawn with probability q, independently of the others. The
gradient is (Σ clipped gradients of the drawn patients + N(0, σ²C²)) / (q·N), where N is the public
number of training patients. The gradient covers the backbone and the heads: the heads stay at the
site, but later updates of the backbone depend on them. What follows (optimiser, proximal term,
schedule, rounding for the wire) uses no data, so it spends nothing.

The gradient with its noise is rounded to multiples of about σC·2^-20, because the last bits of a
sum of floating-point numbers can reveal the summands (Mironov 2012). This makes such attacks hard;
it is not a proof against them. The time that a step needs depends on the drawn patients.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple, Unpack

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from mdmt.config import FederationConfig
from mdmt.config.privacy import DifferentialPrivacy
from mdmt.data.augmentation import Augmentation
from mdmt.data.batches import load_images, load_targets, normalise, prefetch
from mdmt.data.cohort import Cohort
from mdmt.errors import ConfigError
from mdmt.memory import keep_memory
from mdmt.models import MDMTModel, Part, norm_modules, set_training_mode
from mdmt.privacy.account import PrivacyAccount, tensor_hash, training_hash
from mdmt.privacy.accounting import Mechanism, private_steps
from mdmt.privacy.noise import KeyStream, NoiseSource
from mdmt.privacy.patient_gradients import PatientGradients
from mdmt.round_optimizer import RoundOptimizer, RoundOptions, trained_part
from mdmt.training import TrainingResult, trainable


def train_privately(
    model: MDMTModel,
    cohort: Cohort,
    config: FederationConfig,
    *,
    coefficients: Mapping[str, float],
    device: torch.device,
    account: PrivacyAccount,
    keep_moments: Iterable[str] = (),
    **options: Unpack[RoundOptions],
) -> TrainingResult:
    """Train `model` in place for one round, like `mdmt.training.train`, with `privacy.dp`.

    `training.batch_size` is the largest number of images that are computed at once; the number of
    images of a step is random.

    Parameters
    ----------
    model, cohort, config, coefficients, device, keep_moments, **options
        See `mdmt.training.train`. The cohort is that of one site.
    account : PrivacyAccount
        Charged before training. It provides all random numbers.

    Returns
    -------
    TrainingResult
        Without losses and without a number of images: both would need privacy of their own.

    Raises
    ------
    ConfigError
        The model cannot be trained with `privacy.dp`; see `check_private_model`.
    DataError
        There is no labelled training image.
    PolicyError, StateError
        See `PrivacyAccount.spend`.
    """
    dp = config.privacy.dp
    assert dp is not None, "the caller asked for it"
    keep_memory()
    check_private_model(model, config, trained_part(config.training, options))
    patients = Patients.of(cohort, trainable(cohort, list(coefficients)))
    steps = private_steps(config)
    start = tensor_hash(
        model.state_dict(), options.get("start_moments") or {}, options.get("anchor") or {}
    )
    mechanism = Mechanism(dp.sample_rate, dp.noise_multiplier, steps)
    noise = account.spend(mechanism, training_hash(cohort, patients.images), start)
    optimizer = RoundOptimizer(model, config.training, steps, options)
    gradients = PatientGradients(
        model,
        {task: config.space(task) for task in coefficients},
        coefficients,
        clip=dp.clip,
        images=config.training.batch_size,
    )
    place = next(model.parameters()).device
    batches = prefetch(_batches(cohort, config, patients, list(coefficients), noise, steps, place))
    for step, (images, targets, sizes) in enumerate(batches):
        torch.manual_seed(noise.stream(step, "dropout").seed())
        total = gradients.clipped_sum(images, targets, sizes)
        add_noise(gradients.parameters, total, dp, len(patients.sizes), noise.stream(step, "noise"))
        optimizer.step(step)
    return TrainingResult({}, 0, steps, optimizer.moments(keep_moments))


def check_private_model(model: MDMTModel, config: FederationConfig, part: Part = "all") -> None:
    """Set the model to training mode. Refuse normalisation over a batch, if it is not frozen.

    Parameters
    ----------
    model : MDMTModel
    config : FederationConfig
    part : {"all", "backbone", "heads"}
        The part that trains.

    Raises
    ------
    ConfigError
    """
    set_training_mode(model, config.aggregation.norm_layers, part)
    for module in norm_modules(model).values():
        mixes = isinstance(module, nn.modules.batchnorm._BatchNorm) or any(
            name.startswith("running_") for name, _ in module.named_buffers()
        )
        if mixes and module.training:
            raise ConfigError(
                f"privacy.dp: {config.model.backbone} normalises over the images of a batch; set"
                " aggregation.norm_layers: frozen, or use a backbone with group or layer"
                " normalisation"
            )


class Patients(NamedTuple):
    """Training images, patient by patient, in order of patient ids."""

    images: NDArray[np.intp]
    """Positions of the images in the cohort."""
    sizes: NDArray[np.intp]
    """Number of images of each patient; its length is N."""

    @classmethod
    def of(cls, cohort: Cohort, indices: NDArray[np.intp]) -> Patients:
        """Group images by patient."""
        _, owners, sizes = np.unique(
            cohort.manifest.patients[indices], return_inverse=True, return_counts=True
        )
        return cls(indices[np.argsort(owners, kind="stable")], sizes)

    def drawn(self, chosen: NDArray[np.bool_]) -> Patients:
        """Return the chosen patients."""
        return Patients(self.images[np.repeat(chosen, self.sizes)], self.sizes[chosen])


def add_noise(
    parameters: Mapping[str, nn.Parameter],
    total: Mapping[str, Tensor],
    dp: DifferentialPrivacy,
    patients: int,
    stream: KeyStream,
) -> None:
    """Set the gradient of every parameter to (total + noise) / (q·N).

    Parameters
    ----------
    parameters : mapping of str to Parameter
    total : mapping of str to Tensor, float64
        Sum of clipped gradients.
    dp : DifferentialPrivacy
    patients : int
        N.
    stream : KeyStream
    """
    scale = dp.noise_multiplier * dp.clip
    grid = 2.0 ** (math.floor(math.log2(scale)) - 20)
    for name, parameter in parameters.items():
        drawn = torch.from_numpy(stream.normals(parameter.numel())).view(parameter.shape)
        noisy = total[name] + scale * drawn.to(total[name].device)
        rounded = torch.round(noisy / grid) * grid
        parameter.grad = (rounded / (dp.sample_rate * patients)).to(parameter.dtype)


def _batches(
    cohort: Cohort,
    config: FederationConfig,
    patients: Patients,
    tasks: Sequence[str],
    noise: NoiseSource,
    steps: int,
    device: torch.device,
) -> Iterator[tuple[Tensor, dict[str, Tensor], NDArray[np.intp]]]:
    """Yield images, targets and the number of images of each drawn patient, for every step."""
    dp = config.privacy.dp
    assert dp is not None, "the caller asked for it"
    augment = Augmentation(config.augmentation, {task: config.space(task) for task in tasks})
    for step in range(steps):
        chosen = noise.stream(step, "sample").chosen(dp.sample_rate, len(patients.sizes))
        drawn = patients.drawn(chosen)
        images = load_images(cohort, drawn.images, device)
        targets = load_targets(cohort, drawn.images, tasks, device)
        if len(drawn.images):
            seed = noise.stream(step, "augmentation").seed()
            images, targets = augment(images, targets, torch.Generator().manual_seed(seed))
        yield normalise(images, config), targets, drawn.sizes
