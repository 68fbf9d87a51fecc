"""What the header of a DICOM file says that makes its picture unusual. Validation warns of it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from mdmt.data.dicom import is_dicom, open_dicom

if TYPE_CHECKING:
    from pydicom import Dataset

_LATERAL = {"LL", "RL", "LLD", "RLD", "LAT", "LATERAL"}
"""Values of View Position (0018,5101) for a picture from the side."""
_ASPECT = 0.02
"""Largest relative difference between the height and the width of a pixel."""


def header_notices(path: Path) -> list[str]:
    """Return a sentence for each unusual fact. The list is empty for another format than DICOM."""
    with path.open("rb") as file:
        if not is_dicom(file.read(132)):
            return []
    return list(_notices(open_dicom(path, pixels=False)))


def _notices(dataset: Dataset) -> Iterator[str]:
    photometric = str(dataset.get("PhotometricInterpretation", ""))
    shape = str(dataset.get("PresentationLUTShape", ""))
    if (photometric, shape) in {("MONOCHROME2", "INVERSE"), ("MONOCHROME1", "IDENTITY")}:
        yield (
            f"PhotometricInterpretation {photometric} contradicts PresentationLUTShape {shape}: is"
            " bone bright in this picture? It is read as the first says"
        )
    view = str(dataset.get("ViewPosition") or "").strip().upper()
    if view in _LATERAL:
        yield f"ViewPosition {view}: a lateral view; remove its row if you train on frontal views"
    if int(dataset.get("SamplesPerPixel") or 1) > 1:
        yield "a grey picture that is stored in colour: is it a screenshot?"
    if (ratio := _pixel_height(dataset)) and abs(ratio - 1) > _ASPECT:
        yield f"a pixel is {ratio:.2f} times as high as it is wide; the picture is not stretched"


def _pixel_height(dataset: Dataset) -> float | None:
    """Return the height of a pixel divided by its width, if the header says it (C.7.6.3.1.7)."""
    for name in ("PixelAspectRatio", "PixelSpacing", "ImagerPixelSpacing"):
        try:
            height, width = (float(value) for value in dataset.get(name) or ())
        except (TypeError, ValueError):  # absent, or not two numbers
            continue
        if height > 0 and width > 0:
            return height / width
    return None
