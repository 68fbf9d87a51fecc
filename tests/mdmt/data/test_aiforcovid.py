from __future__ import annotations

import csv
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from published_builders import (
    AFC_HEADER,
    AFC_ROWS,
    aiforcovid_site,
    write_aiforcovid,
    write_split_files,
    write_xlsx,
)

from mdmt.config import SiteConfig
from mdmt.data.images import read_radiograph
from mdmt.data.manifest import Manifest
from mdmt.data.readers import inspect_manifest, read_manifest
from mdmt.data.validation import validate_dataset
from mdmt.errors import DataError

Row = tuple[Any, ...]


def read(root: Path, **dataset: Any) -> Manifest:
    return read_manifest(SiteConfig.model_validate(aiforcovid_site(root, **dataset)), 0)


def found(root: Path, **dataset: Any) -> list[str]:
    site = SiteConfig.model_validate(aiforcovid_site(root, **dataset))
    return [str(issue) for issue in inspect_manifest(site, 0)[1]]


def add_release(root: Path, release: int, rows: list[Row]) -> None:
    write_xlsx(root / f"AIforCOVID_r{release}.xlsx", rows, AFC_HEADER)
    folder = root / f"imgs_r{release}"
    folder.mkdir()
    for row in rows:
        (folder / f"{row[1]}.dcm").touch()


def test_outcomes_hospitals_and_metadata_are_read(tmp_path: Path) -> None:
    manifest = read(write_aiforcovid(tmp_path / "afc"), metadata=["Age", "Sex"])
    assert manifest.targets["prognosis"][:4, 0].tolist() == [0, 1, 0, 1]
    assert manifest.patients[:2].tolist() == ["P_0", "P_1"]
    assert manifest.columns["centre"].tolist() == ["A"] * 4 + ["B"] * 4 + ["C"] * 4
    assert manifest.columns["Age"][:2].tolist() == ["40", "41"]
    assert manifest.rows[0] == "AIforCOVID.xlsx:2"


def test_releases_that_are_there_are_joined(tmp_path: Path) -> None:
    root = write_aiforcovid(tmp_path / "afc")
    add_release(root, 3, [(1, "P_3_1", "D", 50, 0, "SEVERE"), (2, "P_3_2", "D", 51, 1, "MILD")])
    manifest = read(root)
    assert len(manifest) == 14
    assert manifest.images[-1] == root / "imgs_r3" / "P_3_2.dcm"
    assert manifest.rows[-1] == "AIforCOVID_r3.xlsx:3"
    assert len(read(root, tables={"AIforCOVID.xlsx": "imgs"})) == 12


def test_ids_that_share_a_number_are_different_patients(tmp_path: Path) -> None:
    root = write_aiforcovid(tmp_path / "afc")
    add_release(root, 2, [(1, "P_1_1", "D", 50, 0, "SEVERE"), (2, "P_2_1", "E", 51, 1, "MILD")])
    patients = read(root).patients.tolist()
    assert {"P_1", "P_1_1", "P_2_1"} < set(patients)
    assert len(set(patients)) == 14


def test_a_column_may_say_that_images_share_a_patient(tmp_path: Path) -> None:
    rows = [(*row, f"person {row[0] // 2}") for row in AFC_ROWS]
    root = write_aiforcovid(tmp_path / "afc", rows, header=(*AFC_HEADER, "Person"))
    assert len(set(read(root, patient="Person").patients.tolist())) == 6


def test_a_row_without_an_outcome_is_left_out(tmp_path: Path) -> None:
    rows = [*AFC_ROWS[:-1], (*AFC_ROWS[-1][:-1], None)]
    assert len(read(write_aiforcovid(tmp_path / "afc", rows))) == 11


def test_dicom_comes_before_png_where_a_name_has_no_suffix(tmp_path: Path) -> None:
    root = write_aiforcovid(tmp_path / "afc")
    assert read(root).images[0].name == "P_0.png"
    (root / "imgs" / "P_0.dcm").touch()
    assert read(root).images[0].name == "P_0.dcm"


def test_no_spreadsheet_at_all(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"none of AIforCOVID.xlsx, .*dataset.tables can name"):
        read(tmp_path)


def test_every_release_needs_the_columns(tmp_path: Path) -> None:
    root = write_aiforcovid(tmp_path / "afc")
    write_xlsx(
        root / "AIforCOVID_r2.xlsx",
        [(1, "P_1_1", "D", 50, 0, "MILD")],
        (*AFC_HEADER[:-1], "Outcome"),
    )
    with pytest.raises(DataError, match=r"AIforCOVID_r2.xlsx: no column Prognosis"):
        read(root)


def test_an_id_of_two_releases_is_refused(tmp_path: Path) -> None:
    root = write_aiforcovid(tmp_path / "afc")
    add_release(root, 2, [(1, "P_1", "D", 50, 0, "SEVERE")])
    (problem,) = found(root)
    assert problem == (
        "AIforCOVID_r2.xlsx:2: column ImageFile: P_1 is already in AIforCOVID.xlsx:3; keep one"
        " row per image"
    )


def outcomes(*numbers: int) -> list[str]:
    return [f"P_{n} {AFC_ROWS[n][-1]} {AFC_ROWS[n][2]}" for n in numbers]


def test_split_files_divide_the_images(tmp_path: Path) -> None:
    root = write_aiforcovid(tmp_path / "afc")
    header = "img label center"
    files = {"train": outcomes(*range(8)), "val": outcomes(8, 9), "test": outcomes(10, 11)}
    write_split_files(root / "folds" / "0", header, **files)
    manifest = read(root, split_files="folds/0")
    assert manifest.splits.tolist() == ["train"] * 8 + ["val"] * 2 + ["test"] * 2
    write_split_files(root / "folds" / "1", header, **files | {"test": ["P_10 SEVERE C"]})
    assert (
        "test.txt:2: label is SEVERE, but Prognosis of AIforCOVID.xlsx:12 is MILD"
        in (found(root, split_files="folds/1")[0])
    )


def test_a_split_without_a_class_is_refused(tmp_path: Path) -> None:
    root = write_aiforcovid(tmp_path / "afc")
    files = {"train": outcomes(*range(9)), "val": outcomes(9, 10), "test": outcomes(11)}
    write_split_files(root / "0", "img label center", **files)
    with pytest.raises(DataError, match="task prognosis: no MILD in the test split"):
        read(root, split_files="0")


@pytest.fixture(scope="module")
def layout(covid_cxr: Path) -> Path:
    return covid_cxr / "original-layouts" / "AIforCOVID"


def test_original_layout_reads_all_releases_and_is_valid(layout: Path) -> None:
    site = SiteConfig.model_validate(aiforcovid_site(layout, split_files="folds/5/0"))
    report = validate_dataset(site, 0)
    assert report.issues == ()
    assert report.images == {"train": 29, "val": 9, "test": 12}
    manifest = read_manifest(site, 0)
    with (layout / "link_to_covid-cxr.csv").open() as file:
        rows = {
            row["ImageFile"]: row
            for row in csv.DictReader(file)
            if not row["ImageFile"].endswith(".png")
        }
    outcome = {"MILD": 0, "SEVERE": 1}
    assert len(manifest) == len(rows) == 50
    for index, path in enumerate(manifest.images):
        row = rows[path.stem]
        assert manifest.targets["prognosis"][index, 0] == outcome[row["Prognosis"]]
        assert manifest.columns["centre"][index] == row["Hospital"]
    centres = Counter(manifest.columns["centre"].tolist())
    assert centres == {"A": 17, "B": 7, "C": 4, "D": 9, "E": 4, "F": 9}


def test_original_layout_of_the_challenge_is_read(layout: Path) -> None:
    manifest = read(layout, tables={"trainClinData_png.xlsx": "imgs_png"})
    assert len(manifest) == 12
    assert {path.suffix for path in manifest.images} == {".png"}
    assert manifest.patients[0] == "P_1"


def test_original_dicom_and_challenge_png_show_the_same_radiograph(layout: Path) -> None:
    for name in ("P_1", "P_9"):
        dicom = read_radiograph(layout / "imgs" / f"{name}.dcm")
        png = read_radiograph(layout / "imgs_png" / f"{name}.png")
        assert np.corrcoef(dicom.ravel(), png.ravel())[0, 1] > 0.95
