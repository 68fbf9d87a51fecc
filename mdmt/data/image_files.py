"""Find the image files in a folder by their content."""

from __future__ import annotations

from pathlib import Path

from mdmt.data.dicom import is_dicom, open_dicom

_PICTURES = (b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
"""First bytes of PNG, JPEG and TIFF files."""


def image_files(folder: Path) -> tuple[list[Path], dict[Path, str]]:
    """Return the image files below a folder, sorted, and why other files are passed over.

    Names do not count: an archive calls its files by UIDs, or ``IM000001``. Hidden files are
    ignored.
    """
    images, others = [], {}
    for path in sorted(path for path in folder.rglob("[!.]*") if path.is_file()):
        if reason := _no_image(path):
            others[path] = reason
        else:
            images.append(path)
    return images, others


def _no_image(path: Path) -> str | None:
    """Return why a file is no image; None for an image, also for a damaged one."""
    with path.open("rb") as file:
        head = file.read(132)
    if head.startswith(_PICTURES):
        return None
    if not is_dicom(head):
        return "not DICOM, PNG, JPEG or TIFF"
    try:
        dataset = open_dicom(path, pixels=False)
    except Exception:  # pydicom raises errors of any class; reading the image says what is wrong
        return None
    if "Rows" in dataset:
        return None
    sop_class = dataset.get("SOPClassUID") or dataset.file_meta.get("MediaStorageSOPClassUID")
    return f"DICOM without a picture ({getattr(sop_class, 'name', None) or 'no SOP class'})"
