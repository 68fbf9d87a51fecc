"""Read image files as radiographs: float arrays in which a larger value is brighter."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from mdmt.data.dicom import is_dicom, read_dicom
from mdmt.errors import ImageError

if TYPE_CHECKING:
    from PIL.Image import Image
    from PIL.ImageFile import ImageFile

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
        return read_dicom(path, voi=voi) if is_dicom(head) else _read_picture(path)
    except (ImageError, MemoryError):
        raise
    except Exception as error:  # decoders raise errors of any class for damaged files
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise ImageError(
            f"{path}: cannot be read ({' '.join(reason.split())}); replace it or remove its row"
        ) from error


def _read_picture(path: Path) -> NDArray[np.float32]:
    from PIL import Image, ImageOps, UnidentifiedImageError

    try:
        opened = Image.open(path, formats=("PNG", "JPEG", "TIFF"))
    except UnidentifiedImageError as error:
        raise ImageError(
            f"{path}: not a readable DICOM, PNG, JPEG or TIFF image; remove its row"
        ) from error
    with opened as image:
        _choose_page(image, path)
        deep = _has_16_bit_alpha(image)
        upright = ImageOps.exif_transpose(image)
        grey = _blend_16_bits(upright) if deep else _grey(upright)
        # Pillow inverts TIFF's WhiteIsZero (tag 262 = 0) for 8 bits, but not for 16 bits or floats.
        if getattr(image, "tag_v2", {}).get(262) == 0 and image.mode[0] in "IF":
            grey = grey.min() + grey.max() - grey
        return grey


def _choose_page(image: ImageFile, path: Path) -> None:
    """Select the picture of a file that also has thumbnails.

    A phone's JPEG (MPO) has its main picture first. A TIFF marks smaller copies by bit 0 of
    NewSubfileType (tag 254), or by 2 in SubfileType (255).

    Raises
    ------
    ImageError
        The file has several whole pictures.
    """
    pages = range(getattr(image, "n_frames", 1))
    if len(pages) == 1 or image.format == "MPO":
        return
    whole = []
    for page in pages:
        image.seek(page)
        tags = getattr(image, "tag_v2", {})
        if not (int(tags.get(254, 0)) & 1 or tags.get(255) == 2):
            whole.append(page)
    if len(whole) != 1:
        raise ImageError(f"{path}: {len(pages)} pages; export the radiograph as its own file")
    image.seek(whole[0])


def _has_16_bit_alpha(image: ImageFile) -> bool:
    """Return True for a PNG of 16-bit grey and alpha, and let Pillow decode all its bits.

    Pillow would keep 8 bits. A pixel of this file has four bytes, like RGBA of 8 bits, so it can be
    decoded as RGBA without loss.
    """
    if image.format != "PNG" or not image.tile or "LA;16B" not in str(image.tile[0][3]):
        return False
    codec, box, offset = image.tile[0][:3]
    image.tile = [(codec, box, offset, "RGBA")]  # type: ignore[list-item]  # a named tuple of new versions
    image._mode = "RGBA"
    return True


def _blend_16_bits(image: Image) -> NDArray[np.float32]:
    """Blend 16-bit grey with black. The four channels are the bytes of grey and of alpha."""
    octets = np.asarray(image).astype(np.float64)
    grey, alpha = 256 * octets[..., 0] + octets[..., 1], 256 * octets[..., 2] + octets[..., 3]
    return (grey * (alpha / 65535)).astype(np.float32)


def _grey(image: Image) -> NDArray[np.float32]:
    from PIL import Image as Images

    if image.mode in {"1", "L", "I", "F"} or image.mode.startswith("I;16"):
        return np.asarray(image).astype(np.float32)
    if image.has_transparency_data:
        black = Images.new("RGBA", image.size, "black")
        image = Images.alpha_composite(black, image.convert("RGBA"))
    return np.asarray(image.convert("L")).astype(np.float32)
