from __future__ import annotations

import math
from unittest import mock

import pytest
import torch
from torch import Tensor
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2.functional import affine

from mdmt.config import AugmentationConfig
from mdmt.data.augmentation import Augmentation
from mdmt.errors import ConfigError
from mdmt.tasks import Classification, Regression

ZONES = Regression(
    kind="regression",
    outputs=("A", "B", "C", "D", "E", "F"),
    range=(0, 3),
    mirror={"A": "D", "B": "E", "C": "F"},
)
OUTCOME = Classification(kind="classification", classes=("MILD", "SEVERE"))
TASKS = {"severity": ZONES, "outcome": OUTCOME}
STILL = {"shift": 0.0, "zoom": 0.0, "rotation": 0.0}
NOISE = torch.rand(4, 2, 64, 64, generator=torch.Generator().manual_seed(5))
EVERYTHING = AugmentationConfig(flip=True, elastic=(20, 40))


def batch(n: int = 16, side: int = 32) -> tuple[Tensor, dict[str, Tensor]]:
    generator = torch.Generator().manual_seed(7)
    severity = torch.arange(6.0).repeat(n, 1)
    severity[::3, 1] = math.nan
    outcome = torch.arange(n).float().view(-1, 1) % 2
    images = torch.rand(n, 1, side, side, generator=generator)
    return images, {"severity": severity, "outcome": outcome}


def augmented(
    config: AugmentationConfig, images: Tensor, targets: dict[str, Tensor], seed: int = 0
) -> tuple[Tensor, dict[str, Tensor]]:
    return Augmentation(config, TASKS)(images, targets, torch.Generator().manual_seed(seed))


def blob(side: int = 64, x: int = 32, y: int = 32) -> Tensor:
    """A spot of 5 x 5 pixels whose centre of mass is (x, y)."""
    image = torch.zeros(1, 1, side, side)
    image[..., y - 2 : y + 3, x - 2 : x + 3] = 1
    return image


def centre(image: Tensor) -> tuple[float, float]:
    mass = image[0] / image[0].sum()
    places = torch.arange(image.shape[-1]).float()
    return (mass.sum(0) @ places).item(), (mass.sum(1) @ places).item()


def test_flip_without_a_mirror_map_is_refused() -> None:
    silent = ZONES.model_copy(update={"mirror": None})
    with pytest.raises(ConfigError, match=r"task severity has no mirror"):
        Augmentation(AugmentationConfig(flip=True), {"severity": silent})
    Augmentation(AugmentationConfig(), {"severity": silent})


@pytest.mark.parametrize("config", [AugmentationConfig(p=0), AugmentationConfig(**STILL)])
def test_inactive_augmentation_changes_and_draws_nothing(config: AugmentationConfig) -> None:
    images, targets = batch()
    generator = torch.Generator().manual_seed(0)
    state = generator.get_state()
    changed, labels = Augmentation(config, TASKS)(images, targets, generator)
    assert changed is images
    assert labels is targets
    assert torch.equal(generator.get_state(), state)


def test_exactly_the_flipped_samples_swap_their_zones() -> None:
    images, targets = batch(64)
    result, labels = augmented(AugmentationConfig(flip=True, **STILL), images, targets)
    flipped = [torch.equal(a, b.flip(-1)) for a, b in zip(result, images, strict=True)]
    kept = [torch.equal(a, b) for a, b in zip(result, images, strict=True)]
    assert [not f for f in flipped] == kept
    assert 16 < sum(flipped) < 48  # p = ½ of 64
    for row, (was, now) in enumerate(zip(targets["severity"], labels["severity"], strict=True)):
        expected = was[[3, 4, 5, 0, 1, 2]] if flipped[row] else was
        torch.testing.assert_close(now, expected, rtol=0, atol=0, equal_nan=True)
    assert torch.equal(labels["outcome"], targets["outcome"])


def test_two_flips_are_the_identity() -> None:
    images, targets = batch()
    config = AugmentationConfig(p=1, flip=True, **STILL)
    once = augmented(config, images, targets)
    assert torch.equal(once[0], images.flip(-1))
    twice, labels = augmented(config, *once, seed=1)
    assert torch.equal(twice, images)
    torch.testing.assert_close(labels, targets, rtol=0, atol=0, equal_nan=True)


def test_everything_follows_from_the_generator() -> None:
    images, targets = batch()
    first = augmented(EVERYTHING, images, targets, seed=3)
    torch.manual_seed(99)  # the global generator has no say
    again = augmented(EVERYTHING, images, targets, seed=3)
    assert torch.equal(first[0], again[0])
    torch.testing.assert_close(first[1], again[1], rtol=0, atol=0, equal_nan=True)
    assert not torch.equal(first[0], augmented(EVERYTHING, images, targets, seed=4)[0])


def test_arguments_keep_their_values() -> None:
    images, targets = batch()
    before = images.clone(), {name: target.clone() for name, target in targets.items()}
    result, _ = augmented(AugmentationConfig(p=1, flip=True, elastic=(20, 40)), images, targets)
    assert not torch.equal(result, images)
    assert torch.equal(images, before[0])
    torch.testing.assert_close(targets, before[1], rtol=0, atol=0, equal_nan=True)


def test_samples_draw_for_themselves_and_some_are_left_alone() -> None:
    images = batch(1)[0].repeat(200, 1, 1, 1)
    result, _ = augmented(AugmentationConfig(), images, {})
    # Three changes, each at ½: one sample in eight has none.
    untouched = sum(torch.equal(a, b) for a, b in zip(result, images, strict=True))
    assert 10 < untouched < 45
    assert len({tuple(image.flatten().tolist()) for image in result}) == 200 - untouched + 1


def test_shift_and_zoom_happen_independently() -> None:
    spots = blob().repeat(200, 1, 1, 1)
    result, _ = augmented(AugmentationConfig(shift=0.1, zoom=0.3, rotation=0), spots, {})
    zoomed = [abs(image.sum().item() - 25) > 0.05 for image in result]
    moved = [math.dist(centre(image), (32, 32)) > 0.4 for image in result]
    for case in [(False, False), (True, False), (False, True), (True, True)]:
        assert 25 < sum(pair == case for pair in zip(zoomed, moved, strict=True)) < 75


@pytest.mark.parametrize("seed", range(5))
def test_shift_moves_by_at_most_its_fraction_of_the_side(seed: int) -> None:
    config = AugmentationConfig(p=1, shift=0.25, zoom=0, rotation=0)
    result, _ = augmented(config, blob(), {}, seed=seed)
    x, y = centre(result[0])
    assert 0.5 < max(abs(x - 32), abs(y - 32)) <= 16.01
    assert result.sum() == pytest.approx(25, abs=0.01)  # neither turned nor zoomed


@pytest.mark.parametrize("seed", range(5))
def test_zoom_and_rotation_keep_their_ranges(seed: int) -> None:
    # The middle of 64 pixels is 31.5; the spot lies 20 to its right.
    spot = blob(x=51, y=32)
    zoomed, _ = augmented(AugmentationConfig(p=1, shift=0, zoom=0.2, rotation=0), spot, {}, seed)
    x, _ = centre(zoomed[0])
    assert 19.5 * 0.8 - 0.2 <= x - 31.5 <= 19.5 * 1.2 + 0.2
    assert abs(x - 51) > 0.05
    turned, _ = augmented(AugmentationConfig(p=1, shift=0, zoom=0, rotation=30), spot, {}, seed)
    x, y = centre(turned[0])
    assert math.hypot(x - 31.5, y - 31.5) == pytest.approx(math.hypot(19.5, 0.5), abs=0.2)
    assert 0.5 < abs(math.degrees(math.atan2(y - 31.5, x - 31.5)) - 1.5) <= 30.5


def test_elastic_moves_pixels_by_smoothed_noise_times_alpha() -> None:
    # Uniform noise has deviation 1/√3; a Gaussian of σ leaves 1/(2σ√π) of it: α = 40, σ = 4
    # gives 40 · 0.577 · 0.0705 = 1.63 pixels.
    config = AugmentationConfig(p=1, elastic=(40, 40), elastic_sigma=4, **STILL)
    side = 128
    ramp = torch.arange(side).float().expand(8, 1, side, side) / side
    result, _ = augmented(config, ramp, {})
    moved = ((result - ramp) * side)[..., 16:-16, 16:-16]
    assert moved.std().item() == pytest.approx(1.63, rel=0.1)
    assert moved.diff(dim=-2).std() < 0.5  # smooth


def test_elastic_alpha_is_drawn_from_its_range() -> None:
    side = 64
    ramp = torch.arange(side).float().expand(200, 1, side, side) / side

    def deviations(low: float, high: float) -> Tensor:
        config = AugmentationConfig(p=1, elastic=(low, high), elastic_sigma=2, **STILL)
        moved = ((augmented(config, ramp, {})[0] - ramp) * side)[..., 8:-8, 8:-8]
        return moved.flatten(1).std(dim=1)

    # The same noise: only α differs, from 10 to 20 over the samples.
    ratio = deviations(10, 20) / deviations(10, 10)
    assert 1 < ratio.min() < 1.1
    assert 1.9 < ratio.max() < 2.02


def test_shift_zoom_and_rotation_are_those_of_torchvision() -> None:
    images = batch(8, 48)[0]
    config = AugmentationConfig(p=1, shift=0.2, zoom=0.3, rotation=40)
    result, _ = augmented(config, images, {})
    generator = torch.Generator().manual_seed(0)
    torch.rand(8, 5, generator=generator)  # whether each change happens: p is 1
    for image, drawn, shown in zip(
        images, torch.rand(8, 5, generator=generator), result, strict=True
    ):
        across, down, scale, angle, _ = (2 * drawn - 1).tolist()
        expected = affine(
            image,
            angle=40 * angle,
            translate=[0.2 * 48 * across, 0.2 * 48 * down],
            scale=1 + 0.3 * scale,
            shear=[0.0, 0.0],
            interpolation=InterpolationMode.BILINEAR,
        )
        torch.testing.assert_close(shown, expected, atol=1e-4, rtol=0)


def test_a_deformed_sample_is_resampled_once() -> None:
    # A deformation by nothing leaves what the other changes give, to the bit.
    images = batch(8)[0]
    plain, _ = augmented(AugmentationConfig(p=1), images, {})
    still, _ = augmented(AugmentationConfig(p=1, elastic=(0, 0)), images, {})
    assert torch.equal(plain, still)
    assert not torch.equal(plain, augmented(AugmentationConfig(p=1, elastic=(9, 9)), images, {})[0])


def test_a_turned_sample_is_deformed_after_the_turn() -> None:
    # The pixel o shows the turned image at o + d(o). An image that is turned by 180 degrees is
    # the one flipped both ways, whatever deforms it next.
    images = batch(4, 64)[0]
    turned = AugmentationConfig(p=1, shift=0, zoom=0, rotation=180, elastic=(20, 20))
    still = turned.model_copy(update={"rotation": 0.0})
    amounts = torch.tensor([0.5, 0.5, 0.5, 1, 0.5]).expand(4, 5)  # the whole angle

    def shown(config: AugmentationConfig, images: Tensor) -> Tensor:
        generator = torch.Generator().manual_seed(0)
        with mock.patch.object(torch, "rand", side_effect=[torch.zeros(4, 5), amounts, NOISE]):
            return Augmentation(config, TASKS)(images, {}, generator)[0]

    expected = shown(still, images.flip(-1, -2))
    torch.testing.assert_close(shown(turned, images), expected, atol=1e-4, rtol=0)
    assert (expected - images.flip(-1, -2)).abs().mean() > 0.01


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(("n", "side"), [(0, 32), (1, 16), (2, 48)])
def test_shapes_are_kept_and_values_stay_in_range(n: int, side: int, channels: int) -> None:
    images, targets = batch(n, side)
    images = images.expand(n, channels, side, side)
    config = AugmentationConfig(p=1, flip=True, elastic=(20, 40))
    result, labels = augmented(config, images, targets)
    assert result.shape == images.shape
    assert {name: label.shape for name, label in labels.items()} == {
        name: target.shape for name, target in targets.items()
    }
    if n:
        assert result.min() >= 0
        assert result.max() <= 1
        assert torch.equal(result[:, :1].expand_as(result), result)  # channels move together


def test_what_comes_in_from_outside_is_black() -> None:
    images = torch.ones(1, 1, 32, 32)
    config = AugmentationConfig(p=1, shift=0.5, zoom=0, rotation=0)
    result, _ = augmented(config, images, {})
    assert set(result.round().flatten().tolist()) == {0, 1}


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA")
def test_a_gpu_draws_what_the_cpu_draws() -> None:
    images, targets = batch()
    there = {name: target.cuda() for name, target in targets.items()}
    result, labels = augmented(EVERYTHING, images.cuda(), there)
    expected, expected_labels = augmented(EVERYTHING, images, targets)
    torch.testing.assert_close(result.cpu(), expected, atol=1e-4, rtol=0)
    for name, label in labels.items():
        torch.testing.assert_close(label.cpu(), expected_labels[name], equal_nan=True)
