from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pydicom import Dataset, dcmread
from pydicom.dataset import FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.pixels.decoders import JPEG2000LosslessDecoder
from pydicom.uid import (
    DigitalXRayImageStorageForPresentation,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    RLELossless,
    generate_uid,
)

from mdmt.data.images import read_mask, read_radiograph
from mdmt.errors import ImageError

REAL = (
    Path(os.environ.get("MDMT_DATA", Path(__file__).parents[4] / "shared" / "data")) / "covid-cxr"
)
# 16 rows of 20 columns, every value its own: a transposed or reshaped picture differs.
PICTURE = np.arange(320, dtype=np.uint16).reshape(16, 20) * 12

Write = Callable[..., Path]


def dicom(pixels: np.ndarray, **tags: object) -> Dataset:
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.file_meta.MediaStorageSOPClassUID = DigitalXRayImageStorageForPresentation
    dataset.file_meta.MediaStorageSOPInstanceUID = generate_uid()
    dataset.SOPClassUID = dataset.file_meta.MediaStorageSOPClassUID
    dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID
    dataset.Rows, dataset.Columns = pixels.shape[:2]
    dataset.SamplesPerPixel = 3 if pixels.ndim == 3 else 1
    dataset.PhotometricInterpretation = "RGB" if pixels.ndim == 3 else "MONOCHROME2"
    if pixels.ndim == 3:
        dataset.PlanarConfiguration = 0
    dataset.BitsAllocated = 8 * pixels.itemsize
    dataset.BitsStored = 12 if pixels.itemsize == 2 else 8
    dataset.PixelRepresentation = int(pixels.dtype.kind == "i")
    for name, value in tags.items():
        setattr(dataset, name, value)
    dataset.HighBit = dataset.BitsStored - 1
    dataset.PixelData = pixels.tobytes()
    dataset["PixelData"].VR = "OW" if pixels.itemsize == 2 else "OB"
    return dataset


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def save(pixels: np.ndarray, name: str = "image.dcm", **tags: object) -> Path:
        dicom(pixels, **tags).save_as(tmp_path / name, enforce_file_format=True)
        return tmp_path / name

    return save

    path = tmp_path / "image.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64), np.uint8)).save(path)
    return path


def lut(entries: list[int], first: int, bits: int) -> list[Dataset]:
    item = Dataset()
    item.LUTDescriptor = [len(entries), first, bits]
    item.add_new("LUTData", "US", entries)
    return [item]


# What cannot be a radiograph


def test_missing_empty_and_text_files_are_refused_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "empty.png").touch()
    (tmp_path / "text.png").write_text("no picture at all\n" * 20)
    (tmp_path / "folder.png").mkdir()
    for name, said in [
        ("gone.png", "No such file"),
        ("empty.png", "is empty"),
        ("text.png", "not a readable DICOM, PNG, JPEG or TIFF"),
        ("folder.png", "cannot be read"),
    ]:
        with pytest.raises(ImageError, match=said) as caught:
            read_radiograph(tmp_path / name)
        assert str(tmp_path / name) in str(caught.value)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kept", [0.02, 0.3, 0.6, 0.95])
@pytest.mark.parametrize("kind", ["png", "jpg", "tif", "dcm", "rle.dcm"])
def test_a_truncated_file_is_refused_wherever_it_ends(
    tmp_path: Path, kind: str, kept: float
) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (64, 64), np.uint8)
    path = tmp_path / f"image.{kind}"
    if "dcm" in kind:
        dataset = dicom(pixels)
        if kind == "rle.dcm":
            dataset.compress(RLELossless)
        dataset.save_as(path, enforce_file_format=True)
    else:
        Image.fromarray(pixels).save(path)
    whole = path.read_bytes()
    assert read_radiograph(path).shape == (64, 64)
    path.write_bytes(whole[: int(kept * len(whole))])
    with pytest.raises(ImageError, match=str(path)):
        read_radiograph(path)


@pytest.mark.parametrize(
    ("pixels", "said"),
    [
        (np.full((32, 32), 7, np.float32), "blank: every pixel is 7"),
        (np.arange(15 * 40, dtype=np.float32).reshape(15, 40), "40 x 15 pixels"),
        (np.where(np.eye(32), np.nan, 1).astype(np.float32), "NaN or infinite"),
        (np.where(np.eye(32), np.inf, 1).astype(np.float32), "NaN or infinite"),
    ],
)
def test_blank_small_and_non_finite_pictures_are_refused(
    tmp_path: Path, pixels: np.ndarray, said: str
) -> None:
    Image.fromarray(pixels).save(tmp_path / "image.tif")
    with pytest.raises(ImageError, match=f"image.tif: .*{said}"):
        read_radiograph(tmp_path / "image.tif")


def test_blank_dicom_is_refused(write: Write) -> None:
    with pytest.raises(ImageError, match="blank: every pixel is 5"):
        read_radiograph(write(np.full((32, 32), 5, np.uint16)))


@pytest.mark.parametrize(
    ("tags", "said"),
    [
        ({"NumberOfFrames": 2, "Rows": 8}, "2 frames"),
        ({"PhotometricInterpretation": "PALETTE COLOR"}, "PALETTE COLOR pixels"),
        ({"BitsStored": 17}, "cannot be read"),
    ],
)
def test_dicom_that_is_no_single_grey_picture_is_refused(
    write: Write, tags: dict[str, object], said: str
) -> None:
    with pytest.raises(ImageError, match=said):
        read_radiograph(write(PICTURE, **tags))


def test_dicom_without_pixels_is_refused(tmp_path: Path) -> None:
    dataset = dicom(PICTURE)
    del dataset.PixelData
    dataset.save_as(tmp_path / "report.dcm", enforce_file_format=True)
    with pytest.raises(ImageError, match=r"report.dcm: DICOM without pixel data"):
        read_radiograph(tmp_path / "report.dcm")


def test_several_pages_are_refused(tmp_path: Path) -> None:
    pages = [Image.fromarray(PICTURE), Image.fromarray(PICTURE + 1)]
    pages[0].save(tmp_path / "image.tif", save_all=True, append_images=pages[1:])
    with pytest.raises(ImageError, match="2 pages"):
        read_radiograph(tmp_path / "image.tif")


def test_compressed_dicom_without_a_decoder_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = dicom(PICTURE)
    dataset.compress(RLELossless)
    dataset.file_meta.TransferSyntaxUID = JPEG2000Lossless
    dataset.save_as(tmp_path / "image.dcm", enforce_file_format=True)
    monkeypatch.setattr(JPEG2000LosslessDecoder, "_available", {})
    with pytest.raises(ImageError, match=r'JPEG 2000.*pip install "mdmt\[dicom\]"'):
        read_radiograph(tmp_path / "image.dcm")


# DICOM


@pytest.mark.parametrize("name", ["image.dcm", "image", "123456.png"])
def test_dicom_is_known_by_its_content(write: Write, name: str) -> None:
    radiograph = read_radiograph(write(PICTURE, name))
    assert radiograph.dtype == np.float32
    np.testing.assert_array_equal(radiograph, PICTURE)


def test_dicom_without_a_preamble_is_read(tmp_path: Path) -> None:
    dataset = dicom(PICTURE)
    del dataset.file_meta
    dataset.save_as(tmp_path / "old", implicit_vr=True, little_endian=True)
    assert (tmp_path / "old").read_bytes()[:2] == b"\x08\x00"
    np.testing.assert_array_equal(read_radiograph(tmp_path / "old"), PICTURE)


@pytest.mark.parametrize("bits", [8, 10, 12, 16])
@pytest.mark.parametrize("signed", [False, True])
def test_monochrome_1_and_2_of_one_picture_are_the_same_radiograph(
    write: Write, bits: int, signed: bool
) -> None:
    stored = np.random.default_rng(bits).integers(0, 2**bits, (20, 30))
    stored[0, :2] = 3, 2**bits - 9  # the range is not used up: inversion is not min + max - x
    stored = np.clip(stored, 3, 2**bits - 9) - signed * 2 ** (bits - 1)
    dtype = np.dtype(f"{'i' if signed else 'u'}{1 if bits == 8 else 2}")
    inverted = (-1 if signed else 2**bits - 1) - stored
    tags = {"BitsStored": bits, "RescaleSlope": "0.5", "RescaleIntercept": "-100"}
    usual = read_radiograph(write(stored.astype(dtype), "2", **tags))
    tags["PhotometricInterpretation"] = "MONOCHROME1"
    np.testing.assert_array_equal(
        read_radiograph(write(inverted.astype(dtype), "1", **tags)), usual
    )
    np.testing.assert_array_equal(usual, (0.5 * stored - 100).astype(np.float32))


def test_signed_values_fill_only_their_stored_bits(write: Write) -> None:
    stored = PICTURE.astype(np.int16) - 2000
    overlay = (stored & 0x0FFF) | 0x4000  # bits 12 to 15 may hold anything (PS3.5 8.1.1)
    np.testing.assert_array_equal(read_radiograph(write(overlay)), stored)


def test_bits_that_continue_the_values_are_refused(write: Write) -> None:
    with pytest.raises(ImageError, match="more bits than BitsStored 10"):
        read_radiograph(write(PICTURE, BitsStored=10))  # values up to 3828 would wrap at 1024


def test_values_are_shifted_if_the_high_bit_is_higher(write: Write) -> None:
    path = write(PICTURE << 4)
    dataset = dcmread(path)
    dataset.HighBit = 15
    dataset.save_as(path)
    np.testing.assert_array_equal(read_radiograph(path), PICTURE)


def test_an_overlay_in_jpeg_2000_does_not_reach_the_picture(tmp_path: Path) -> None:
    picture = np.tile(PICTURE, (4, 4))  # the encoder needs 64 rows
    pixels = picture.copy()
    pixels[2:6, 3:9] |= 0x9000
    dataset = dicom(pixels, BitsStored=16)
    dataset.compress(JPEG2000Lossless, generate_instance_uid=False)
    dataset.BitsStored, dataset.HighBit = 12, 11
    path = tmp_path / "overlay.dcm"
    dataset.save_as(path, enforce_file_format=True)
    np.testing.assert_array_equal(read_radiograph(path), picture)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("RescaleSlope", b""),
        ("RescaleIntercept", b""),
        ("RescaleSlope", b"1,0 "),
        ("WindowCenter", b""),
        ("VOILUTFunction", b""),
    ],
)
def test_empty_and_badly_written_elements_are_read(write: Write, name: str, text: bytes) -> None:
    marks = {"RescaleSlope": "7.5", "RescaleIntercept": "8.5"}
    marks |= {"WindowCenter": "9.5", "WindowWidth": "9999", "VOILUTFunction": "LINEAR_EXACT"}
    path = write(PICTURE, RescaleType="US", **marks)
    length = {"VOILUTFunction": 12}.get(name, 4)
    value = {"VOILUTFunction": b"LINEAR_EXACT"}.get(name, f"{marks[name]} ".encode())
    vr = b"CS" if name == "VOILUTFunction" else b"DS"
    encoded = vr + length.to_bytes(2, "little")
    data = path.read_bytes()
    assert data.count(encoded + value) == 1
    path.write_bytes(data.replace(encoded + value, vr + len(text).to_bytes(2, "little") + text))
    slope = 1.0 if name == "RescaleSlope" else 7.5
    intercept = 0.0 if name == "RescaleIntercept" else 8.5
    np.testing.assert_array_equal(read_radiograph(path), PICTURE * slope + intercept)
    read_radiograph(path, voi=True)


def test_an_empty_voi_lut_is_passed_over(write: Write) -> None:
    tags = {"WindowCenter": 1000, "WindowWidth": 1000, "VOILUTFunction": "LINEAR_EXACT"}
    plain = write(PICTURE, "plain.dcm", **tags)
    empty = write(PICTURE, "empty.dcm", **tags, VOILUTSequence=[Dataset()])
    for voi in (False, True):
        expected = read_radiograph(plain, voi=voi)
        np.testing.assert_array_equal(read_radiograph(empty, voi=voi), expected)


@pytest.mark.parametrize(
    ("vr", "value"), [("SS", -1), ("US", 65535), ("OW", b"\xff\xff"), ("US", [65535, 65534])]
)
def test_padding_is_found_whatever_its_type_says(write: Write, vr: str, value: object) -> None:
    pixels = PICTURE + 100
    pixels[:4] = 65535
    path = write(pixels, BitsStored=16)
    dataset = dcmread(path)
    dataset.add_new("PixelPaddingValue", vr, value)
    dataset.save_as(path)
    radiograph = read_radiograph(path)
    assert (radiograph[:4] == radiograph[4:].min()).all()
    np.testing.assert_array_equal(radiograph[4:], pixels[4:])


def test_modality_lut_is_applied(write: Write) -> None:
    table = [v * 3 for v in range(4096)]
    path = write(PICTURE, ModalityLUTSequence=lut(table, first=0, bits=14))
    np.testing.assert_array_equal(read_radiograph(path), PICTURE * 3)


def test_window_is_applied_only_when_asked(write: Write) -> None:
    # Linear exact: 1000 ± 500 spans the 12 bits, below is black and above white (C.11.2.1.3.2).
    path = write(PICTURE, WindowCenter=1000, WindowWidth=1000, VOILUTFunction="LINEAR_EXACT")
    np.testing.assert_array_equal(read_radiograph(path), PICTURE)
    expected = np.clip((PICTURE - 500.0) / 1000, 0, 1) * 4095
    np.testing.assert_allclose(read_radiograph(path, voi=True), expected, rtol=1e-6, atol=1e-3)


@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
def test_eight_bit_voi_lut_after_a_rescale(write: Write, photometric: str) -> None:
    path = write(
        PICTURE,
        PhotometricInterpretation=photometric,
        RescaleSlope="1",
        RescaleIntercept="0",
        VOILUTSequence=lut([v // 16 for v in range(4096)], first=0, bits=8),
    )
    shown = PICTURE // 16
    expected = 255 - shown if photometric == "MONOCHROME1" else shown
    np.testing.assert_array_equal(read_radiograph(path, voi=True), expected)


@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
def test_padding_is_as_dark_as_the_darkest_pixel(write: Write, photometric: str) -> None:
    pixels = PICTURE + 100
    pixels[:4], pixels[4] = 4000, 4001
    tags = {"PixelPaddingValue": 4000, "PixelPaddingRangeLimit": 4001}
    radiograph = read_radiograph(write(pixels, PhotometricInterpretation=photometric, **tags))
    picture = radiograph[5:]
    assert np.unique(picture).size == picture.size
    assert (radiograph[:5] == picture.min()).all()


def test_grey_in_colour_is_averaged_and_colour_refused(write: Write) -> None:
    grey = np.repeat((PICTURE // 16).astype(np.uint8)[..., None], 3, axis=2)
    np.testing.assert_array_equal(read_radiograph(write(grey)), grey[..., 0])
    grey[3, 3, 0] += 3
    with pytest.raises(ImageError, match="colour"):
        read_radiograph(write(grey))


@pytest.mark.parametrize("syntax", [ImplicitVRLittleEndian, RLELossless, JPEG2000Lossless])
def test_every_transfer_syntax_gives_the_same_pixels(tmp_path: Path, syntax: str) -> None:
    pixels = np.tile(PICTURE, (4, 4))  # JPEG 2000 needs 32 pixels
    dataset = dicom(pixels)
    if syntax == JPEG2000Lossless:
        openjpeg = pytest.importorskip("openjpeg.utils", reason="no dicom extra installed")
        dataset.PixelData = encapsulate([openjpeg.encode_array(pixels, bits_stored=12)])
        dataset["PixelData"].is_undefined_length = True
        dataset.file_meta.TransferSyntaxUID = syntax
    elif syntax == ImplicitVRLittleEndian:
        dataset.file_meta.TransferSyntaxUID = syntax
    else:
        dataset.compress(syntax)
    dataset.save_as(tmp_path / "image", enforce_file_format=True)
    assert dcmread(tmp_path / "image").file_meta.TransferSyntaxUID == syntax
    np.testing.assert_array_equal(read_radiograph(tmp_path / "image"), pixels)


@pytest.mark.skipif(not REAL.is_dir(), reason="no real radiographs in MDMT_DATA")
@pytest.mark.parametrize("folder", ["BRIXIA/dicom_clean", "AIforCOVID/imgs", "torchxrayvision-dcm"])
def test_real_dicom_files_are_read(folder: str) -> None:
    paths = sorted((REAL / "original-layouts" / folder).iterdir())
    syntaxes = set()
    for path in paths:
        header = dcmread(path, stop_before_pixels=True)
        syntaxes.add(header.file_meta.TransferSyntaxUID.name)
        radiograph = read_radiograph(path, voi=True)
        assert radiograph.shape == (header.Rows, header.Columns)
    assert len(syntaxes) >= (3 if "BRIXIA" in folder else 1)


# PNG, JPEG, TIFF


@pytest.mark.parametrize(
    ("suffix", "dtype"),
    [
        ("png", np.uint8),
        ("png", np.uint16),
        ("tif", np.uint8),
        ("tif", np.uint16),
        ("tif", np.int32),
        ("tif", np.float32),
    ],
)
def test_grey_pixels_keep_their_values(tmp_path: Path, suffix: str, dtype: type) -> None:
    pixels = (PICTURE // 16 if dtype == np.uint8 else PICTURE * 17).astype(dtype)
    Image.fromarray(pixels).save(tmp_path / f"image.{suffix}")
    np.testing.assert_array_equal(read_radiograph(tmp_path / f"image.{suffix}"), pixels)


@pytest.mark.parametrize("dtype", [np.uint16, np.float32])
def test_tiff_where_white_is_zero_is_inverted(tmp_path: Path, dtype: type) -> None:
    path = tmp_path / "image.tif"
    Image.fromarray(PICTURE.astype(dtype)).save(path, tiffinfo={262: 0})
    with Image.open(path) as saved:
        assert saved.tag_v2[262] == 0
    np.testing.assert_array_equal(read_radiograph(path), PICTURE.max() - PICTURE)


def test_colour_becomes_luminance(tmp_path: Path) -> None:
    # ITU-R 601: 0.299 · 200 + 0.587 · 100 + 0.114 · 50 = 124.2
    pixels = np.zeros((16, 16, 3), np.uint8)
    pixels[:, 4:] = 200, 100, 50
    Image.fromarray(pixels).save(tmp_path / "image.png")
    radiograph = read_radiograph(tmp_path / "image.png")
    assert radiograph.shape == (16, 16)
    assert (radiograph[:, :4] == 0).all()
    assert (radiograph[:, 4:] == 124).all()


@pytest.mark.parametrize("mode", ["P", "RGB", "RGBA", "LA"])
def test_grey_in_any_mode_is_the_same_radiograph(tmp_path: Path, mode: str) -> None:
    grey = Image.fromarray((PICTURE // 16).astype(np.uint8))
    grey.convert(mode).save(tmp_path / "image.png")
    with Image.open(tmp_path / "image.png") as saved:
        assert saved.mode == mode
    np.testing.assert_array_equal(read_radiograph(tmp_path / "image.png"), np.asarray(grey))


def test_transparent_parts_are_black(tmp_path: Path) -> None:
    pixels = np.full((16, 16, 4), 255, np.uint8)
    pixels[:8, :, 3] = 0
    Image.fromarray(pixels).save(tmp_path / "image.png")
    radiograph = read_radiograph(tmp_path / "image.png")
    assert (radiograph[:8] == 0).all()
    assert (radiograph[8:] == 255).all()


def test_sixteen_bits_of_grey_with_alpha_are_kept(tmp_path: Path) -> None:
    grey = PICTURE * 5 + 3
    alpha = np.full_like(grey, 65535)
    alpha[0] = 0
    rows = np.stack([grey, alpha], axis=-1).astype(">u2").reshape(16, -1).view(np.uint8)
    lines = b"".join(b"\0" + row.tobytes() for row in rows)
    header = struct.pack(">IIBBBBB", 20, 16, 16, 4, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(lines)), (b"IEND", b"")]
    path = tmp_path / "image.png"
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n"
        + b"".join(
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
            for kind, data in chunks
        )
    )
    radiograph = read_radiograph(path)
    np.testing.assert_array_equal(radiograph[1:], grey[1:])
    assert (radiograph[0] == 0).all()


def test_a_thumbnail_is_passed_over(tmp_path: Path) -> None:
    whole, small = Image.fromarray(PICTURE), Image.fromarray(PICTURE[::2, ::2].copy())
    whole.save(tmp_path / "a.tif", save_all=True, append_images=[small])
    with pytest.raises(ImageError, match="2 pages"):
        read_radiograph(tmp_path / "a.tif")
    small.encoderinfo = {"tiffinfo": {254: 1}}
    whole.save(tmp_path / "b.tif", save_all=True, append_images=[small], tiffinfo={254: 0})
    data = (tmp_path / "b.tif").read_bytes()
    assert b"\xfe\x00\x04\x00\x01\x00\x00\x00\x01" in data, "the second page is a thumbnail"
    np.testing.assert_array_equal(read_radiograph(tmp_path / "b.tif"), PICTURE)


def test_the_first_picture_of_a_phone_is_read(tmp_path: Path) -> None:
    whole = Image.fromarray(np.tile(np.arange(64, dtype=np.uint8), (64, 1)))
    whole.save(
        tmp_path / "a.jpg", format="MPO", save_all=True, append_images=[whole.resize((8, 8))]
    )
    assert read_radiograph(tmp_path / "a.jpg").shape == (64, 64)


def test_exif_orientation_is_applied(tmp_path: Path) -> None:
    image = Image.fromarray((PICTURE // 16).astype(np.uint8))
    exif = Image.Exif()
    exif[0x0112] = 2  # mirrored left to right: it would exchange the lungs
    image.save(tmp_path / "image.png", exif=exif)
    np.testing.assert_array_equal(read_radiograph(tmp_path / "image.png"), (PICTURE // 16)[:, ::-1])


# Masks


@pytest.mark.parametrize("mode", ["1", "L"])
def test_every_mask_pixel_but_zero_is_lung(tmp_path: Path, mode: str) -> None:
    lungs = np.zeros((8, 10), bool)
    lungs[2:4, 3:5], lungs[5, 6] = True, True
    image = Image.fromarray(lungs) if mode == "1" else Image.fromarray(lungs.astype(np.uint8))
    image.save(tmp_path / "mask.png")
    mask = read_mask(tmp_path / "mask.png")
    assert mask.dtype == np.bool_
    np.testing.assert_array_equal(mask, lungs)


def test_an_empty_mask_is_refused(tmp_path: Path) -> None:
    Image.fromarray(np.zeros((32, 32), np.uint8)).save(tmp_path / "mask.png")
    with pytest.raises(ImageError, match=r"mask.png: the mask is empty"):
        read_mask(tmp_path / "mask.png")
