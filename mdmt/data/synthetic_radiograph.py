"""Draw frontal chest radiographs with a known severity score for each of six lung zones."""

from functools import lru_cache
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Picture = NDArray[np.float32]

_LUNG_X = 0.42  # from the spine to the centre of a lung; x and y are in [-1, 1]
_LUNG_HALF_WIDTH = 0.30
_LUNG_HALF_HEIGHT = 0.68
_ZONE_X = np.repeat([-_LUNG_X, _LUNG_X], 3)
_ZONE_Y = np.tile([-0.40, 0.0, 0.40], 2)
# By score. Opacity: a clear lung is 0.55 darker than tissue. Extent: a standard deviation.
_OPACITY = np.array([0.0, 0.13, 0.24, 0.34])
_EXTENT = np.array([0.10, 0.12, 0.15, 0.18])
_EMPTY_ATTRIBUTES = """
AccessionNumber BodyPartExamined InstanceNumber Manufacturer PatientBirthDate PatientSex
ReferringPhysicianName SeriesNumber StudyDate StudyID StudyTime ViewPosition
"""  # type 2 attributes of PS3.3: present, but without a value


def draw_radiograph(
    scores: NDArray[np.integer], rng: np.random.Generator, *, size: int, noise: float
) -> Picture:
    """Draw one radiograph. Position, size, exposure, ribs and texture depend on `rng`.

    Parameters
    ----------
    scores : ndarray of int, (6,)
        Score of each zone A to F, 0 to 3: a higher score gives a brighter and larger opacity.
    rng : numpy.random.Generator
        The number of draws does not depend on `scores`.
    size : int
        Side length in pixels.
    noise : float
        Standard deviation of the pixel noise, in fractions of full scale.

    Returns
    -------
    ndarray, float32, (size, size)
        In [0, 1]. A larger value is denser and brighter, as in MONOCHROME2.
    """
    shift_x, shift_y = rng.uniform(-0.06, 0.06, 2)
    scale_x, scale_y = rng.uniform(0.92, 1.08, 2)
    x = (_axis(size) - shift_x)[None, :] / scale_x
    y = (_axis(size) - shift_y)[:, None] / scale_y

    lungs = _lung(x, y, -_LUNG_X) + _lung(x, y, _LUNG_X)
    body = _inside(1 - (x / 0.95) ** 4 - ((y - 0.5) / 1.45) ** 4, 0.05)
    heart = _inside(1 - ((x - 0.14) / 0.30) ** 2 - ((y - 0.34) / 0.30) ** 2, 0.25)
    spine = np.exp(-((x / 0.11) ** 2))
    # Ribs slope down from the spine and are visible through the lungs.
    ribs = np.sin(2 * np.pi * (y * 2.4 - 0.7 * np.abs(x) + rng.uniform())) ** 2

    picture = 0.72 * body
    picture = picture - 0.55 * lungs * (1 - 0.8 * heart) + 0.10 * spine * body
    picture += rng.uniform(0.05, 0.09) * ribs * lungs
    picture += _opacities(scores, x, y, rng) * lungs
    picture = rng.uniform(0.9, 1.1) * picture + rng.uniform(-0.04, 0.04)
    picture += noise * rng.standard_normal((size, size), dtype=np.float32)
    clipped: Picture = np.clip(picture, 0.0, 1.0).astype(np.float32)
    return clipped


def _opacities(
    scores: NDArray[np.integer], x: Picture, y: Picture, rng: np.random.Generator
) -> Picture:
    """Draw one soft spot per zone. Spots are separable, so their sum is a matrix product."""
    at_x = _ZONE_X + rng.uniform(-0.05, 0.05, 6)
    at_y = _ZONE_Y + rng.uniform(-0.05, 0.05, 6)
    extent = _EXTENT[scores] * rng.uniform(0.9, 1.1, 6)
    brightness = _OPACITY[scores] * rng.uniform(0.9, 1.1, 6)
    across = np.exp(-0.5 * ((x - at_x[:, None]) / extent[:, None]) ** 2)  # (6, size)
    down = np.exp(-0.5 * ((y - at_y) / extent) ** 2)  # (size, 6)
    spots: Picture = ((down * brightness) @ across).astype(np.float32)
    return spots


def _lung(x: Picture, y: Picture, at_x: float) -> Picture:
    """Draw a superellipse with a soft edge."""
    across, down = (x - at_x) / _LUNG_HALF_WIDTH, y / _LUNG_HALF_HEIGHT
    return _inside(1 - across**4 - down**4, 0.15)


def _inside(level: Picture, softness: float) -> Picture:
    """Return 1 where `level` is positive and 0 where it is negative, with a soft edge."""
    soft: Picture = 0.5 + 0.5 * np.tanh(level / (2 * softness))
    return soft


@lru_cache(maxsize=4)
def _axis(size: int) -> Picture:
    """Return the coordinates of pixel centres in [-1, 1]."""
    return ((np.arange(size, dtype=np.float32) + 0.5) * 2 / size - 1).astype(np.float32)


def write_dicom(
    path: Path,
    picture: Picture,
    *,
    patient: str,
    photometric: Literal["MONOCHROME1", "MONOCHROME2"],
    bits: int,
) -> None:
    """Write a picture as a Computed Radiography image (PS3.3 A.2) in explicit little endian.

    Equal arguments give equal bytes.

    Parameters
    ----------
    path : Path
    picture : ndarray, float32, (H, W)
        In [0, 1].
    patient : str
        Patient ID. The UIDs depend on it and on the name of the file.
    photometric : str
        ``MONOCHROME1`` stores the inverted picture.
    bits : int
        Bits stored, 9 to 16, of 16 allocated.
    """
    from pydicom.dataset import Dataset, FileMetaDataset
    from pydicom.uid import ComputedRadiographyImageStorage as StorageClass
    from pydicom.uid import ExplicitVRLittleEndian, generate_uid

    full_scale = 2**bits - 1
    stored = np.rint(picture.astype(np.float64) * full_scale).astype("<u2")
    if photometric == "MONOCHROME1":
        stored = full_scale - stored

    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.SOPClassUID = StorageClass
    dataset.SOPInstanceUID = generate_uid(entropy_srcs=["instance", patient, path.name])
    dataset.SeriesInstanceUID = generate_uid(entropy_srcs=["series", patient, path.name])
    dataset.StudyInstanceUID = generate_uid(entropy_srcs=["study", patient])
    dataset.Modality = "CR"
    dataset.PatientID = dataset.PatientName = patient
    for required in _EMPTY_ATTRIBUTES.split():
        setattr(dataset, required, None)
    dataset.Rows, dataset.Columns = picture.shape
    dataset.SamplesPerPixel = 1
    dataset.PhotometricInterpretation = photometric
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 16, bits, bits - 1
    dataset.PixelRepresentation = 0
    dataset.PixelData = stored.tobytes()
    dataset["PixelData"].VR = "OW"
    dataset.save_as(path, enforce_file_format=True)
