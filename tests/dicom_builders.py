"""DICOM files, built element by element."""

from __future__ import annotations

import numpy as np
from pydicom import Dataset
from pydicom.dataset import FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.uid import (
    DigitalXRayImageStorageForPresentation,
    ExplicitVRLittleEndian,
    JPEGExtended12Bit,
)


def header(sop_class: str = DigitalXRayImageStorageForPresentation) -> Dataset:
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID = sop_class
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID = "1.2.3"
    return dataset


def radiograph() -> Dataset:
    dataset = header()
    dataset.Rows, dataset.Columns, dataset.SamplesPerPixel = 16, 20, 1
    dataset.PhotometricInterpretation = "MONOCHROME2"
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 16, 12, 11
    dataset.PixelRepresentation = 0
    dataset.RescaleIntercept, dataset.RescaleSlope = "0", "1"
    dataset.WindowCenter, dataset.WindowWidth = "100", "200"
    dataset.PixelData = np.arange(320, dtype="<u2").tobytes()
    return dataset


def jpeg_of_12_bits() -> Dataset:
    """A radiograph in JPEG Extended with 12 bits, of 16 x 20 pixels (ISO 10918-1, SOF1).

    The tables and the scan are left out: libjpeg as Pillow has it stops at the precision.
    """
    frame = bytes([0xFF, 0xC1, 0, 11, 12, 0, 16, 0, 20, 1, 1, 0x11, 0])
    dataset = radiograph()
    dataset.file_meta.TransferSyntaxUID = JPEGExtended12Bit
    dataset.PixelData = encapsulate([b"\xff\xd8" + frame + b"\xff\xd9"])
    return dataset
