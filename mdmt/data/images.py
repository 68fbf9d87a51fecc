"""Read image files as radiographs: float arrays in which a larger value is brighter."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from mdmt.errors import ImageError

if TYPE_CHECKING:
    from PIL.Image import Image
    from pydicom import Dataset

SMALLEST_SIDE = 16
"""Pixels. A smaller image is an icon or a broken export."""


def read_radiograph(path: Path, *, voi: bool = False) -> NDArray[np.float32]:
    """Read a DICOM, PNG, JPEG or TIFF file. Its content decides the format, not its name.

    DICOM: the modality LUT or rescale (PS3.3 C.11.1) is applied. MONOCHROME1 is inverted within the
    range of the stored bits (C.7.6.3.1.2), so that it equals the same picture stored as
    MONOCHROME2. Padding (C.7.5.1.1.2) becomes as dark as the darkest other pixel. Files with
    several frames are refused. Colour is refused too, unless its three channels agree within 1 % of
    full scale (a grey picture stored as colour); then the result is their mean.

    PNG, JPEG and TIFF: up to 16 bits of grey, or float. Colour becomes luminance (ITU-R 601,
    8 bits), transparent parts become black, and the EXIF orientation is applied.

    Parameters
    ----------
    path : Path
    voi : bool
        Also apply the first VOI LUT of a DICOM file, or the first window if it has no LUT
        (C.11.2). This has no effect on a file without a LUT or window, or of another format.

    Returns
    -------
    ndarray, float32, (H, W)
        In the units of the file, not scaled.

    Raises
    ------
    ImageError
        The file is missing, unreadable, truncated or not an image, or fails `check_radiograph`.
    """
    radiograph = _read(path, voi)
    check_radiograph(radiograph, path)
    return radiograph


def read_mask(path: Path) -> NDArray[np.bool_]:
    """Read a lung mask from any format of `read_radiograph`; every pixel but 0 is lung.

    Returns
    -------
    ndarray, bool, (H, W)

    Raises
    ------
    ImageError
        The file cannot be read, or the mask has no lung pixel.
    """
    mask = _read(path, voi=False) > 0
    if not mask.any():
        raise ImageError(f"{path}: the mask is empty; draw it again or remove it from the table")
    return mask


def check_radiograph(radiograph: NDArray[np.float32], path: Path) -> None:
    """Refuse an image that cannot be a radiograph.

    Parameters
    ----------
    radiograph : ndarray, float32, (H, W)
    path : Path
        Used in the message.

    Raises
    ------
    ImageError
        A side is below `SMALLEST_SIDE`, a pixel is not finite, or all pixels are equal.
    """
    height, width = radiograph.shape
    if min(height, width) < SMALLEST_SIDE:
        raise ImageError(
            f"{path}: {width} x {height} pixels; expected at least {SMALLEST_SIDE} per side"
        )
    if not np.isfinite(radiograph).all():
        raise ImageError(f"{path}: some pixels are NaN or infinite; export the image again")
    if radiograph.min() == radiograph.max():
        raise ImageError(f"{path}: blank: every pixel is {radiograph[0, 0]:g}; remove its row")


def _read(path: Path, voi: bool) -> NDArray[np.float32]:
    try:
        with path.open("rb") as file:
            head = file.read(132)
        if not head:
            raise ImageError(f"{path}: the file is empty; copy it again or remove its row")
        return _read_dicom(path, voi) if _is_dicom(head) else _read_picture(path)
    except (ImageError, MemoryError):
        raise
    except Exception as error:  # decoders raise errors of any class for damaged files
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise ImageError(
            f"{path}: cannot be read ({' '.join(reason.split())}); replace it or remove its row"
        ) from error


def _is_dicom(head: bytes) -> bool:
    """Check PS3.10 7.1. Some archives drop the preamble: then group 0002 or 0008 comes first."""
    return head[128:132] == b"DICM" or head[:2] in {b"\x02\x00", b"\x08\x00"}


def _read_dicom(path: Path, voi: bool) -> NDArray[np.float32]:
    from pydicom import dcmread
    from pydicom.pixels.utils import pixel_array
    from pydicom.uid import ImplicitVRLittleEndian

    dataset = dcmread(path, force=True)
    if "TransferSyntaxUID" not in dataset.file_meta:
        dataset.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian  # the default of PS3.5 10.1
    _require_one_picture(dataset, path)
    pixels = pixel_array(dataset)
    if pixels.ndim == 3:
        return _grey_of_equal_channels(pixels, dataset, path)
    radiograph = _bright(pixels, dataset, voi)
    padding = _padding(pixels, dataset)
    if padding.any() and not padding.all():
        radiograph[padding] = radiograph[~padding].min()
    return radiograph


def _require_one_picture(dataset: Dataset, path: Path) -> None:
    from pydicom.pixels.decoders.base import get_decoder

    if "PixelData" not in dataset:
        raise ImageError(f"{path}: DICOM without pixel data, or truncated; export it again")
    frames = int(dataset.get("NumberOfFrames") or 1)
    if frames > 1:
        raise ImageError(f"{path}: {frames} frames; export the radiograph as its own file")
    photometric = dataset.get("PhotometricInterpretation", "")
    if not photometric.startswith(("MONOCHROME", "RGB", "YBR")):
        raise ImageError(f"{path}: {photometric or 'unknown'} pixels; expected MONOCHROME1 or 2")
    syntax = dataset.file_meta.TransferSyntaxUID
    if syntax.is_encapsulated and not get_decoder(syntax).is_available:
        raise ImageError(f'{path}: {syntax.name} needs a decoder; pip install "mdmt[dicom]"')


def _grey_of_equal_channels(
    pixels: NDArray[Any], dataset: Dataset, path: Path
) -> NDArray[np.float32]:
    tolerance = 0.01 * 2**dataset.BitsStored  # YBR → RGB and JPEG change grey a little
    if (pixels.max(axis=-1) - pixels.min(axis=-1)).max() > tolerance:
        raise ImageError(f"{path}: a colour picture; expected a grey radiograph")
    grey: NDArray[np.float32] = pixels.mean(axis=-1, dtype=np.float32)
    return grey


def _bright(pixels: NDArray[Any], dataset: Dataset, voi: bool) -> NDArray[np.float32]:
    """Convert stored values to displayed values, in which larger is brighter."""
    shown = _displayed(pixels, dataset, voi)
    if dataset.PhotometricInterpretation == "MONOCHROME1":
        bits, signed = dataset.BitsStored, dataset.PixelRepresentation
        darkest = -(2 ** (bits - 1)) if signed else 0
        ends = np.array([darkest, darkest + 2**bits - 1])
        shown = _displayed(ends, dataset, voi).sum(dtype=np.float64) - shown
    return shown.astype(np.float32)


def _displayed(values: NDArray[Any], dataset: Dataset, voi: bool) -> NDArray[Any]:
    from pydicom.pixels.processing import apply_modality_lut, apply_voi_lut

    for name in ("ModalityLUTSequence", "VOILUTSequence"):
        for item in dataset.get(name) or ():
            # pydicom chooses its index type by this depth: 8 overflows, and 10 to 15 bits fail.
            item.LUTDescriptor[2] = 16
    values = apply_modality_lut(values.astype(np.int64), dataset)
    if not voi:
        return values
    if dataset.get("VOILUTSequence"):
        values = np.rint(values).astype(np.int64)  # a rescale gives floats, a LUT takes integers
    return apply_voi_lut(values, dataset)


def _padding(pixels: NDArray[Any], dataset: Dataset) -> NDArray[np.bool_]:
    """Return a mask of the pixels that the file declares to be padding."""
    value = dataset.get("PixelPaddingValue")
    if value is None:
        return np.zeros(pixels.shape, dtype=np.bool_)
    limit = dataset.get("PixelPaddingRangeLimit")
    low, high = sorted((value, value if limit is None else limit))
    padding: NDArray[np.bool_] = (pixels >= low) & (pixels <= high)
    return padding


def _read_picture(path: Path) -> NDArray[np.float32]:
    from PIL import Image, ImageOps, UnidentifiedImageError

    try:
        opened = Image.open(path, formats=("PNG", "JPEG", "TIFF"))
    except UnidentifiedImageError as error:
        raise ImageError(
            f"{path}: not a readable DICOM, PNG, JPEG or TIFF image; remove its row"
        ) from error
    with opened as image:
        frames = getattr(image, "n_frames", 1)
        if frames > 1:
            raise ImageError(f"{path}: {frames} pages; export the radiograph as its own file")
        grey = _grey(ImageOps.exif_transpose(image))
        # Pillow inverts TIFF's WhiteIsZero (tag 262 = 0) for 8 bits, but not for 16 bits or floats.
        if getattr(image, "tag_v2", {}).get(262) == 0 and image.mode[0] in "IF":
            grey = grey.min() + grey.max() - grey
        return grey


def _grey(image: Image) -> NDArray[np.float32]:
    from PIL import Image as Images

    if image.mode in {"1", "L", "I", "F"} or image.mode.startswith("I;16"):
        return np.asarray(image).astype(np.float32)
    if image.has_transparency_data:
        black = Images.new("RGBA", image.size, "black")
        image = Images.alpha_composite(black, image.convert("RGBA"))
    return np.asarray(image.convert("L")).astype(np.float32)
