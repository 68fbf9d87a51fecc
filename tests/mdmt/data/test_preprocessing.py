from __future__ import annotations

import numpy as np
import pytest

from mdmt.config import PreprocessingConfig
from mdmt.data.preprocessing import lung_box, preprocess
from mdmt.errors import ImageError

WHOLE = PreprocessingConfig(clip=(0, 100))


def test_percentiles_become_black_and_white() -> None:
    # 10,000 values 0, 1, …, 9999: percentile p is 99.99 p, so 2 and 98 are 199.98 and 9799.02.
    image = np.arange(10_000, dtype=np.float32).reshape(100, 100)
    result = preprocess(image, None, PreprocessingConfig(clip=(2, 98)), 100)
    expected = np.rint(np.clip((image - 199.98) / 9599.04, 0, 1) * 255)
    np.testing.assert_array_equal(result, expected)
    assert (result[:2] == 0).all()
    assert (result[-2:] == 255).all()
    assert result.dtype == np.uint8


def test_percentiles_of_a_large_image_are_those_of_the_whole() -> None:
    image = np.random.default_rng(0).normal(size=(2100, 1900)).astype(np.float32)
    low, high = np.percentile(image, (2, 98))
    result = preprocess(image, None, PreprocessingConfig(keep_aspect=False), 64)
    clipped = np.clip((image - low) / (high - low), 0, 1)
    whole = preprocess(clipped, None, PreprocessingConfig(clip=(0, 100), keep_aspect=False), 64)
    assert np.abs(result.astype(int) - whole).max() <= 1


@pytest.mark.parametrize(("slope", "offset"), [(1, 0), (0.25, -1000), (16, 32768)])
def test_units_of_the_file_do_not_matter(slope: float, offset: float) -> None:
    image = np.random.default_rng(0).integers(0, 4096, (60, 40)).astype(np.float32)
    config = PreprocessingConfig()
    expected = preprocess(image, None, config, 32)
    result = preprocess(slope * image + np.float32(offset), None, config, 32)
    assert np.abs(result.astype(int) - expected).max() <= 1


def test_a_burnt_in_letter_is_clipped_before_it_can_bleed() -> None:
    image = np.random.default_rng(0).uniform(0, 100, (64, 64)).astype(np.float32)
    letter = image.copy()
    letter[0, 0] = 1e6
    config = PreprocessingConfig(clip=(2, 98))
    change = preprocess(letter, None, config, 16).astype(int) - preprocess(image, None, config, 16)
    assert np.abs(change).max() <= 255 / 16  # one of the 16 pixels that make the corner


def test_an_image_without_contrast_between_its_percentiles_is_refused() -> None:
    image = np.zeros((100, 100), np.float32)
    image[0, :50] = 1  # half a percent
    with pytest.raises(ImageError, match=r"percentiles 2 and 98 are both 0: .*preprocessing.clip"):
        preprocess(image, None, PreprocessingConfig(), 32)


@pytest.mark.parametrize(
    ("shape", "rows", "columns"),
    [
        ((50, 100), slice(8, 24), slice(0, 32)),
        ((100, 50), slice(0, 32), slice(8, 24)),
        ((100, 100), slice(0, 32), slice(0, 32)),
        ((1000, 17), slice(0, 32), slice(15, 16)),
    ],
)
def test_aspect_is_kept_by_black_on_both_sides(
    shape: tuple[int, int], rows: slice, columns: slice
) -> None:
    image = np.full(shape, 100, np.float32)
    image[0, 0] = 0  # not blank; averaged away
    picture = np.zeros((32, 32), bool)
    picture[rows, columns] = True
    result = preprocess(image, None, WHOLE, 32)
    assert (result[picture] > 200).all()
    assert (result[~picture] == 0).all()


def test_stretching_fills_the_square() -> None:
    image = np.full((50, 100), 100, np.float32)
    image[0, 0] = 0
    result = preprocess(image, None, PreprocessingConfig(clip=(0, 100), keep_aspect=False), 32)
    assert (result > 200).all()


def test_reduction_averages_instead_of_picking_pixels() -> None:
    # A checkerboard of single pixels has mean one half, whatever grid samples it.
    image = (np.indices((256, 256)).sum(axis=0) % 2).astype(np.float32)
    result = preprocess(image, None, WHOLE, 32)
    assert np.abs(result.astype(int) - 127.5).max() <= 2


def test_rows_stay_rows() -> None:
    image = np.zeros((40, 40), np.float32)
    image[:10] = 1
    result = preprocess(image, None, WHOLE, 40)
    np.testing.assert_array_equal(result, image * 255)


def lungs() -> np.ndarray:
    mask = np.zeros((100, 200), bool)
    mask[30:70, 60:90] = True  # 1,200 pixels
    mask[40:60, 110:130] = True  # 400
    mask[0:5, 190:200] = True  # 50: not a lung
    return mask


def test_lung_box_is_square_with_five_percent_on_each_side() -> None:
    # The two largest span rows 30-70 and columns 60-130: 70 wide, so the side is 77, and the
    # centre is (95, 50).
    assert lung_box(lungs(), 200, 100) == pytest.approx((56.5, 11.5, 133.5, 88.5))


def test_lung_box_of_a_mask_of_another_shape_is_square_in_the_image() -> None:
    assert lung_box(lungs()[::2, ::2], 200, 100) == pytest.approx((56.5, 11.5, 133.5, 88.5))
    # The same mask over a tall image: rows 90-210, columns 30-65, so the side is 132.
    assert lung_box(lungs(), 100, 300) == pytest.approx((0, 84, 100, 216))


def test_lung_box_with_one_lung_stays_in_the_picture() -> None:
    mask = np.zeros((50, 50), bool)
    mask[0:40, 0:10] = True
    assert lung_box(mask, 50, 50) == pytest.approx((0, 0, 27, 42))


def test_the_picture_is_cropped_to_the_lungs_after_clipping_the_whole() -> None:
    image = np.full((100, 200), 50, np.float32)
    image[0, 0], image[0, 1] = 0, 200  # outside the box, yet they set the range
    image[50:, :] = 100
    config = PreprocessingConfig(clip=(0, 100), lung_box=True)
    result = preprocess(image, lungs(), config, 77)
    assert set(result[:36].ravel()) == {64}  # 50 / 200 · 255 = 63.75
    assert set(result[41:].ravel()) == {128}  # 100 / 200 · 255 = 127.5, to even
    assert result.min() > 0  # square: no padding


def test_lung_box_without_a_mask_is_refused() -> None:
    image = np.arange(1024, dtype=np.float32).reshape(32, 32)
    with pytest.raises(ImageError, match="lung_box needs a lung mask"):
        preprocess(image, None, PreprocessingConfig(lung_box=True), 32)
