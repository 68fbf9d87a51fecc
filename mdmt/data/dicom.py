"""Read a DICOM radiograph: a float array in which a larger value is brighter.

Archives contain files whose header contradicts the pixels. What has one meaning is repaired here,
and everything else is refused.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from mdmt.errors import ImageError

if TYPE_CHECKING:
    from pydicom import Dataset

_WORDS = {"ExplicitVRLittleEndian", "ImplicitVRLittleEndian", "ExplicitVRBigEndian"} | {
    "DeflatedExplicitVRLittleEndian",
    "RLELossless",
}
"""Transfer syntaxes that keep all allocated bits of a pixel where the header says they are."""


def is_dicom(head: bytes) -> bool:
    """Check the first 132 bytes of a file (PS3.10 7.1).

    Some archives drop the preamble: then group 0002 or 0008 comes first.
    """
    return head[128:132] == b"DICM" or head[:2] in {b"\x02\x00", b"\x08\x00"}


def read_dicom(path: Path, *, voi: bool) -> NDArray[np.float32]:
    """Read a file. See `mdmt.data.images.read_radiograph`.

    Raises
    ------
    ImageError
        The file is not one grey picture, or its header contradicts its pixels.
    """
    dataset = open_dicom(path)
    _require_one_picture(dataset, path)
    pixels = _decoded(dataset, path)
    if pixels.ndim == 3:
        return _grey_of_equal_channels(pixels, dataset, path)
    padding = _padding(pixels, dataset)
    pixels = _stored(pixels, padding, dataset, path)
    radiograph = _bright(pixels, dataset, voi)
    if padding.any() and not padding.all():
        radiograph[padding] = radiograph[~padding].min()
    return radiograph


def open_dicom(path: Path, *, pixels: bool = True) -> Dataset:
    """Read a file whose optional elements may be empty or badly written.

    Parameters
    ----------
    path : Path
    pixels : bool
        Also read the pixel data.
    """
    from pydicom import dcmread
    from pydicom.uid import ImplicitVRLittleEndian

    dataset = dcmread(path, force=True, stop_before_pixels=not pixels)
    if "TransferSyntaxUID" not in dataset.file_meta:
        dataset.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian  # the default of PS3.5 10.1
    for name in ("RescaleSlope", "RescaleIntercept", "WindowCenter", "WindowWidth"):
        _repair_number(dataset, name)
    if "VOILUTFunction" in dataset and not dataset.VOILUTFunction:
        del dataset.VOILUTFunction  # then it is LINEAR (C.11.2.1.3)
    if "RescaleSlope" in dataset or "RescaleIntercept" in dataset:
        dataset.setdefault("RescaleSlope", "1")
        dataset.setdefault("RescaleIntercept", "0")
    if ("WindowCenter" in dataset) != ("WindowWidth" in dataset):
        for name in ("WindowCenter", "WindowWidth"):
            dataset.pop(name, None)
    return dataset


def _repair_number(dataset: Dataset, name: str) -> None:
    """Remove an empty decimal string, and read a decimal comma as a point."""
    from pydicom.dataelem import RawDataElement
    from pydicom.tag import Tag

    tag = Tag(name)
    if tag not in dataset:
        return
    element = dataset.get_item(tag)
    if isinstance(element, RawDataElement) and isinstance(element.value, bytes | None):
        text = (element.value or b"").strip(b" \0")
        if b"," in text:
            dataset[tag] = element._replace(value=text.replace(b",", b"."))
    if dataset[tag].is_empty:
        del dataset[tag]


def _require_one_picture(dataset: Dataset, path: Path) -> None:
    from pydicom.pixels.decoders.base import get_decoder

    if "PixelData" not in dataset:
        raise ImageError(f"{path}: DICOM without pixel data, or truncated; export it again")
    frames = int(dataset.get("NumberOfFrames") or 1)
    if frames > 1:
        raise ImageError(f"{path}: {frames} frames; export the radiograph as its own file")
    photometric = str(dataset.get("PhotometricInterpretation", ""))
    if not photometric.startswith(("MONOCHROME", "RGB", "YBR")):
        shown = "".join(filter(str.isprintable, photometric))[:40] or "unknown"
        raise ImageError(f"{path}: {shown} pixels; expected MONOCHROME1 or 2")
    syntax = dataset.file_meta.TransferSyntaxUID
    if syntax.is_encapsulated and not get_decoder(syntax).is_available:
        raise ImageError(f'{path}: {syntax.name} needs a decoder; pip install "mdmt[dicom]"')


def _decoded(dataset: Dataset, path: Path) -> NDArray[Any]:
    """Decode the pixels with all allocated bits."""
    from pydicom.pixels.utils import pixel_array
    from pydicom.uid import JPEGExtended12Bit

    try:
        pixels = pixel_array(dataset, correct_unused_bits=False)
    except RuntimeError as error:
        if dataset.file_meta.TransferSyntaxUID == JPEGExtended12Bit and dataset.BitsStored > 8:
            raise ImageError(
                f"{path}: JPEG with 12 bits needs a decoder that mdmt does not install because of"
                " its license: pip install pylibjpeg-libjpeg (GPL), or export the file uncompressed"
            ) from error
        raise
    return pixels.astype(pixels.dtype.newbyteorder("="), copy=False)


def _stored(
    pixels: NDArray[Any], padding: NDArray[np.bool_], dataset: Dataset, path: Path
) -> NDArray[np.int64]:
    """Return the stored bits of each pixel (PS3.5 8.1.1): shifted, masked and sign-extended.

    The other bits may contain anything, such as an overlay.

    Raises
    ------
    ImageError
        The other bits continue the values: BitsStored is too small, and the masked picture would be
        cut into bands.
    """
    bits, allocated = int(dataset.BitsStored), 8 * pixels.itemsize
    high = int(dataset.get("HighBit", bits - 1))
    as_words = dataset.file_meta.TransferSyntaxUID.keyword in _WORDS
    shift = high + 1 - bits if as_words else 0
    if not 0 <= shift <= allocated - bits:
        raise ImageError(f"{path}: HighBit {high} contradicts BitsStored {bits}")
    words = pixels.view(f"u{pixels.itemsize}").astype(np.int64)
    values: NDArray[np.int64] = (words >> shift) & (2**bits - 1)
    if dataset.PixelRepresentation == 1:
        values -= (values >> (bits - 1)) << bits
        whole = pixels.astype(np.int64) >> shift
    else:
        whole = words >> shift
    whole, kept = (np.where(padding, 0, array) for array in (whole, values))
    if (whole != kept).any() and _roughness(kept) > _roughness(whole):
        raise ImageError(
            f"{path}: the pixels use more bits than BitsStored {bits}; export it again"
        )
    return values


def _roughness(pixels: NDArray[np.int64]) -> float:
    """Return the mean difference of neighbours. Values that wrap around differ by 2^bits."""
    return float(np.abs(np.diff(pixels, axis=0)).mean() + np.abs(np.diff(pixels, axis=1)).mean())


def _padding(pixels: NDArray[Any], dataset: Dataset) -> NDArray[np.bool_]:
    """Return a mask of the pixels that the file declares to be padding (C.7.5.1.1.2).

    The sign in the header may contradict PixelRepresentation (-1 for 65535), so values are compared
    as words.
    """
    found = np.zeros(pixels.shape, dtype=np.bool_)
    values = _integers(dataset, "PixelPaddingValue", pixels)
    limit = _integers(dataset, "PixelPaddingRangeLimit", pixels)
    if len(values) == len(limit) == 1:
        low, high = sorted((values[0], limit[0]))
        found |= (pixels >= low) & (pixels <= high)
        return found
    for value in values:
        found |= pixels == value
    return found


def _integers(dataset: Dataset, name: str, pixels: NDArray[Any]) -> list[Any]:
    """Return the values of an element in the type of the pixels."""
    value = dataset.get(name)
    if value is None or value == "":
        return []
    if isinstance(value, bytes):  # OW, or an unknown type
        order = "<" if dataset.file_meta.TransferSyntaxUID.is_little_endian else ">"
        return list(np.frombuffer(value, f"{order}u2").astype(pixels.dtype))
    numbers = np.atleast_1d(np.array(value, dtype=np.int64))
    return list(numbers.astype(pixels.dtype))


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

    names = ("ModalityLUTSequence", "VOILUTSequence") if voi else ("ModalityLUTSequence",)
    for name in names:
        _repair_lut(dataset, name)
    values = apply_modality_lut(values.astype(np.int64), dataset)
    if not voi:
        return values
    if dataset.get("VOILUTSequence"):
        values = np.rint(values).astype(np.int64)  # a rescale gives floats, a LUT takes integers
    return apply_voi_lut(values, dataset)


def _repair_lut(dataset: Dataset, name: str) -> None:
    """Remove LUTs without a descriptor or data."""
    if name not in dataset:
        return
    items = [item for item in dataset[name].value or () if _is_lut(item)]
    for item in items:
        # pydicom chooses its index type by this depth: 8 overflows, and 10 to 15 bits fail.
        item.LUTDescriptor[2] = 16
    if items:
        setattr(dataset, name, items)
    else:
        del dataset[name]


def _is_lut(item: Dataset) -> bool:
    descriptor = item.get("LUTDescriptor")
    return descriptor is not None and len(descriptor) == 3 and bool(item.get("LUTData"))
