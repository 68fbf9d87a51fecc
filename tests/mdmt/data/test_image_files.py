"""Files are known by their content, and no header or table leads to a traceback."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from dicom_builders import header, jpeg_of_12_bits, radiograph
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from pydicom.uid import BasicTextSRStorage, MediaStorageDirectoryStorage

from mdmt.data.header_checks import header_notices
from mdmt.data.image_files import image_files
from mdmt.data.images import read_radiograph
from mdmt.data.tabular import read_tabular_file
from mdmt.errors import DataError, ImageError

FUZZ = settings(
    max_examples=500,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


def test_a_folder_gives_its_images_whatever_their_names(tmp_path: Path) -> None:
    (tmp_path / "ST0").mkdir()
    names = ("ST0/IM000001", "1.2.840.5", "scan.ima", "picture.dat", "photo")
    for name in names[:3]:
        radiograph().save_as(tmp_path / name, enforce_file_format=True)
    Image.fromarray(np.zeros((16, 16), np.uint8)).save(tmp_path / names[3], format="PNG")
    Image.fromarray(np.zeros((16, 16), np.uint8)).save(tmp_path / names[4], format="JPEG")
    header(MediaStorageDirectoryStorage).save_as(tmp_path / "DICOMDIR", enforce_file_format=True)
    header(BasicTextSRStorage).save_as(tmp_path / "report.dcm", enforce_file_format=True)
    (tmp_path / "README").write_text("a CD")
    (tmp_path / ".DS_Store").touch()
    images, others = image_files(tmp_path)
    assert {str(path.relative_to(tmp_path)) for path in images} == set(names)
    assert {path.name: reason for path, reason in others.items()} == {
        "DICOMDIR": "DICOM without a picture (Media Storage Directory Storage)",
        "report.dcm": "DICOM without a picture (Basic Text SR Storage)",
        "README": "not DICOM, PNG, JPEG or TIFF",
    }


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("ViewPosition", "LL", "a lateral view"),
        ("PresentationLUTShape", "INVERSE", "contradicts"),
        ("PixelAspectRatio", ["2", "1"], "2.00 times as high"),
        ("PixelSpacing", ["0.2", "0.1"], "2.00 times as high"),
    ],
)
def test_an_unusual_header_is_noticed(tmp_path: Path, name: str, value: object, says: str) -> None:
    dataset = radiograph()
    dataset.save_as(tmp_path / "usual", enforce_file_format=True)
    assert header_notices(tmp_path / "usual") == []
    setattr(dataset, name, value)
    dataset.save_as(tmp_path / "unusual", enforce_file_format=True)
    (notice,) = header_notices(tmp_path / "unusual")
    assert says in notice


def test_a_jpeg_of_12_bits_names_the_missing_decoder(tmp_path: Path) -> None:
    jpeg_of_12_bits().save_as(tmp_path / "film.dcm", enforce_file_format=True)
    with pytest.raises(ImageError) as caught:
        read_radiograph(tmp_path / "film.dcm")
    assert "pip install pylibjpeg-libjpeg" in str(caught.value)
    assert "remove its row" not in str(caught.value)
    assert str(caught.value).startswith(str(tmp_path / "film.dcm"))


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("sound") / "image.dcm"
    radiograph().save_as(path, enforce_file_format=True)
    return path.read_bytes()


@FUZZ
@given(at=st.integers(132, 600), new=st.binary(min_size=1, max_size=6), replace=st.booleans())
def test_a_damaged_header_gives_one_line_or_a_picture(
    tmp_path: Path, sound: bytes, at: int, new: bytes, replace: bool
) -> None:
    path = tmp_path / "image.dcm"
    path.write_bytes(sound[:at] + new + sound[at + len(new) * replace :])
    with one_line(path):
        assert np.isfinite(read_radiograph(path, voi=at % 2 == 0)).all()


CELLS = st.text(st.sampled_from("ab1,;|\n é"), min_size=1, max_size=5).map(lambda text: f"x{text}")
ROWS = st.lists(st.tuples(CELLS, CELLS, CELLS), min_size=1, max_size=8)


@FUZZ
@given(rows=ROWS)
def test_every_row_of_a_sound_table_is_read(tmp_path: Path, rows: list[tuple[str, ...]]) -> None:
    write_table(tmp_path / "labels.csv", rows)
    table = read_tabular_file(tmp_path / "labels.csv")
    assert [tuple(row.cells.values()) for row in table.rows] == [
        tuple(cell.strip() for cell in row) for row in rows
    ]


@FUZZ
@given(rows=ROWS, at=st.integers(0, 100), character=st.sampled_from('",;\n\x00'))
def test_no_row_of_a_damaged_table_is_lost_without_a_word(
    tmp_path: Path, rows: list[tuple[str, ...]], at: int, character: str
) -> None:
    path = tmp_path / "labels.csv"
    text = write_table(path, rows)
    at = 6 + at % (len(text) - 5)  # behind the header
    path.write_text(text[:at] + character + text[at:], encoding="utf-8", newline="")
    with one_line(path):
        table = read_tabular_file(path)
        told = len(table.rows) + len(table.issues)
        assert table.issues or told >= len(rows)


def write_table(path: Path, rows: list[tuple[str, ...]]) -> str:
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([("a", "b", "c"), *rows])
    return path.read_text(encoding="utf-8")


@contextmanager
def one_line(path: Path) -> Iterator[None]:
    """Allow an error of our own that names the file in one line."""
    try:
        yield
    except (DataError, ImageError) as error:
        message = str(error)
    else:
        return
    assert str(path) in message
    assert "\n" not in message
