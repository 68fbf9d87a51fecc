from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import openpyxl
import pytest

from mdmt.config.site import SiteConfig
from mdmt.data.cohort import Cohort, pool
from mdmt.data.manifest import Manifest
from mdmt.data.readers import inspect_manifest, read_manifest
from mdmt.errors import DataError

PROGNOSIS = {"kind": "classification", "classes": ["MILD", "SEVERE"]}
SEVERITY = {"kind": "ordinal", "outputs": ["A", "B"], "levels": 4}
TASKS = {"prognosis": PROGNOSIS, "severity": SEVERITY}
HEADER = "image,patient,split,A,B,prognosis"


def site_of(root: Path, tasks: dict[str, Any] = TASKS, **dataset: Any) -> SiteConfig:
    dataset = {"kind": "table", "root": root, "patient": "patient", "split": "split"} | dataset
    return SiteConfig.model_validate({"name": "clinic", "dataset": dataset, "tasks": tasks})


@pytest.fixture
def write(tmp_path: Path) -> Any:
    """Write a table and an (empty) file for every image x1.png … x9.png."""
    for n in range(1, 10):
        (tmp_path / f"x{n}.png").touch()

    def write(*lines: str, header: str = HEADER, encoding: str = "utf-8") -> Path:
        (tmp_path / "labels.csv").write_text("\n".join([header, *lines, ""]), encoding=encoding)
        return tmp_path

    return write


def is_row(manifest: Manifest, image: str, prognosis: float, a: float, b: float) -> bool:
    index = [path.name for path in manifest.images].index(image)
    found = [*manifest.targets["prognosis"][index], *manifest.targets["severity"][index]]
    return np.array_equal(found, [prognosis, a, b], equal_nan=True)


ROWS = ["x1.png,p1,train,0,3,MILD", "x2.png,p2,val,1,2,SEVERE", "x3.png,p3,test,,2,"]


def check_rows(manifest: Manifest) -> None:
    assert manifest.splits.tolist() == ["train", "val", "test"]
    assert manifest.patients.tolist() == ["p1", "p2", "p3"]
    assert is_row(manifest, "x1.png", 0, 0, 3)
    assert is_row(manifest, "x2.png", 1, 1, 2)
    assert is_row(manifest, "x3.png", np.nan, np.nan, 2)
    assert manifest.targets["severity"].dtype == np.float32


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_csv_dialects_give_the_same_manifest(write: Any, delimiter: str, encoding: str) -> None:
    rows = [row.replace(",", delimiter) for row in ROWS]
    root = write(*rows, header=HEADER.replace(",", delimiter), encoding=encoding)
    check_rows(read_manifest(site_of(root), 0))


def test_blanks_around_cells_and_blank_lines_do_not_matter(write: Any) -> None:
    spaced = [row.replace(",", " , ") for row in ROWS]
    root = write(spaced[0], "", ",,,,,", *spaced[1:], header=HEADER.replace(",", " ,"))
    manifest = read_manifest(site_of(root), 0)
    check_rows(manifest)
    assert manifest.rows == ("labels.csv:2", "labels.csv:5", "labels.csv:6")


def test_rows_are_named_by_the_line_an_editor_shows_despite_quoted_line_breaks(write: Any) -> None:
    root = write(
        'x1.png,p1,train,0,3,MILD,"two\nlines"', "x2.png,p2,val,0,9,MILD,", header=HEADER + ",note"
    )
    with pytest.raises(DataError, match=r"labels\.csv:4: column B: '9'"):
        read_manifest(site_of(root), 0)


def test_xlsx_reads_like_csv_and_whole_floats_are_whole(write: Any) -> None:
    root = write()
    workbook = openpyxl.Workbook()
    sheet = workbook.active
    assert sheet is not None
    sheet.append(HEADER.split(","))
    sheet.append(["x1.png", "p1", "train", 0, 3.0, " MILD "])
    sheet.append([None] * 6)
    sheet.append(["x2.png", "p2", "val", 1.0, "2", "SEVERE"])
    sheet.append(["x3.png", "p3", "test", None, 2.0])
    workbook.save(root / "labels.xlsx")
    manifest = read_manifest(site_of(root, table="labels.xlsx"), 0)
    check_rows(manifest)
    assert manifest.rows == ("labels.xlsx:2", "labels.xlsx:4", "labels.xlsx:5")


def test_numeric_patient_ids_agree_between_csv_and_xlsx(write: Any) -> None:
    root = write("x1.png,12,train,0,3,MILD")
    workbook = openpyxl.Workbook()
    assert workbook.active is not None
    for row in (HEADER.split(","), ["x1.png", 12.0, "train", 0, 3, "MILD"]):
        workbook.active.append(row)
    workbook.save(root / "openpyxl.xlsx")
    with (
        zipfile.ZipFile(root / "openpyxl.xlsx") as old,
        zipfile.ZipFile(root / "labels.xlsx", "w") as new,
    ):
        for name in old.namelist():  # as other programs write whole numbers
            new.writestr(name, old.read(name).replace(b"<v>12</v>", b"<v>12.0</v>"))
    tables = (read_manifest(site_of(root, table=f"labels.{end}"), 0) for end in ("csv", "xlsx"))
    assert [manifest.patients.tolist() for manifest in tables] == [["12"], ["12"]]


@pytest.mark.parametrize("missing", ["", "na", "NaN", "nan", "unknown"])
def test_missing_labels_are_nan_and_rows_without_any_label_are_dropped(
    write: Any, missing: str
) -> None:
    root = write(
        ROWS[0],
        f"x2.png,p2,train,{missing},1,{missing}",
        f"x3.png,p3,val,{','.join([missing] * 3)}",
    )
    values = {"values": {"unknown": ""}}
    tasks = {"prognosis": PROGNOSIS | values, "severity": SEVERITY | values}
    manifest = read_manifest(site_of(root, tasks, val_fraction=0), 0)
    assert [path.name for path in manifest.images] == ["x1.png", "x2.png"]
    assert is_row(manifest, "x2.png", np.nan, np.nan, 1)


def test_cells_are_mapped_to_labels_and_columns_may_have_other_names(write: Any) -> None:
    root = write(
        "x1.png,p1,train,1,2,1", "x2.png,p2,val,1,2,0", header="image,patient,split,ul,ml,icu"
    )
    tasks = {
        "prognosis": PROGNOSIS | {"columns": "icu", "values": {1: "SEVERE", 0: "MILD"}},
        "severity": SEVERITY | {"columns": ["ml", "ul"]},
    }
    manifest = read_manifest(site_of(root, tasks), 0)
    assert is_row(manifest, "x1.png", 1, 2, 1)
    assert is_row(manifest, "x2.png", 0, 2, 1)


def test_a_row_is_kept_when_every_where_matches(write: Any) -> None:
    header = HEADER + ",view,covid"
    views = ["PA,10", "AP,10", "LL,10", "PA,1"]
    rows = [f"x{n}.png,p{n},train,0,0,MILD,{view}" for n, view in enumerate(views, 1)]
    site = site_of(
        write(*rows, header=header), where={"view": ["PA", "AP"], "covid": "10"}, val_fraction=0
    )
    assert [path.name for path in read_manifest(site, 0).images] == ["x1.png", "x2.png"]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (
            "x2.png,p2,train,0,1,SEVRE",
            "column prognosis: 'SEVRE' is no label of prognosis.*MILD, SEVERE",
        ),
        ("x2.png,p2,train,0,4,MILD", "column B: '4' is no label of severity.*0 to 3"),
        ("x2.png,p2,train,0,0.5,MILD", "column B: '0.5'"),
        (
            "x2.png,p2,training,0,1,MILD",
            "column split: 'training' is not a split.*train, val, test",
        ),
        ("x2.png,,train,0,1,MILD", "column patient: no patient id"),
        (",p2,train,0,1,MILD", "column image: no image"),
        ("gone.png,p2,train,0,1,MILD", "column image: .*gone.png is not a file"),
        ("./x1.png,p1,train,0,1,MILD", "image .*x1.png is already in labels.csv:2"),
        ("x2.png,p1,test,0,1,MILD", "patient p1 is in test here and in train in labels.csv:2"),
        ("x2.png,p2,train,0", "the row has 4 cells, the header has 6"),
    ],
)
def test_a_bad_row_is_refused_by_file_and_line(write: Any, row: str, message: str) -> None:
    root = write("x1.png,p1,train,0,3,MILD", row)
    with pytest.raises(DataError, match=rf"site clinic: labels\.csv:3: {message}") as caught:
        read_manifest(site_of(root), 0)
    assert "\n" not in str(caught.value)


def test_every_problem_is_collected_and_the_error_counts_the_others(write: Any) -> None:
    root = write(ROWS[0], "x2.png,p2,train,7,8,MILD", "gone.png,p3,val,0,0,MILD")
    manifest, issues = inspect_manifest(site_of(root), 0)
    assert [issue.where for issue in issues] == ["labels.csv:3"] * 2 + ["labels.csv:4"]
    assert len(manifest) == 1
    with pytest.raises(DataError, match="and 2 more"):
        read_manifest(site_of(root), 0)


def test_missing_columns_are_all_named_with_the_nearest_and_the_ones_there(write: Any) -> None:
    root = write(header="image,patient_id,split,A,prognosis")
    with pytest.raises(DataError) as caught:
        read_manifest(site_of(root), 0)
    message = str(caught.value)
    assert "no column patient (for dataset.patient, did you mean patient_id?)" in message
    assert "no column B (for tasks.severity" in message
    assert "its columns are image, patient_id, split, A, prognosis" in message


def test_as_many_columns_as_the_task_has_labels_are_needed(write: Any) -> None:
    tasks = {"severity": SEVERITY | {"columns": ["A"]}}
    with pytest.raises(
        DataError, match=r"tasks\.severity\.columns: 1 columns .* 2 are needed.*A, B"
    ):
        read_manifest(site_of(write(*ROWS), tasks), 0)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "no such file"),
        (b"", "empty"),
        ("image,patient,split,A,B,prognosis,\xfcbel\n".encode("latin-1"), "UTF-8"),
        (b"image,A,A,patient,split,B,prognosis\n", "two columns are called A"),
        (HEADER.encode(), "no row is left"),
        (f"{HEADER}\nx1.png,p1,train,,,\n".encode(), "no row is left"),
    ],
)
def test_a_table_that_is_none_is_refused_by_name(
    write: Any, content: bytes | None, message: str
) -> None:
    root = write()
    table = root / "labels.csv"
    table.unlink() if content is None else table.write_bytes(content)
    with pytest.raises(DataError, match=rf"{table}.*{message}"):
        read_manifest(site_of(root), 0)


def test_a_file_that_is_only_called_xlsx_is_refused(write: Any) -> None:
    root = write()
    (root / "labels.xlsx").write_text(HEADER)
    with pytest.raises(DataError, match=r"labels\.xlsx: not a valid XLSX file"):
        read_manifest(site_of(root, table="labels.xlsx"), 0)


def test_missing_images_and_masks_are_skipped_with_a_count_where_the_site_says_so(
    write: Any, caplog: pytest.LogCaptureFixture
) -> None:
    rows = [
        "x1.png,p1,train,0,1,MILD,",
        "gone.png,p2,val,0,1,MILD,",
        "x3.png,p3,val,0,1,MILD,no.png",
    ]
    root = write(*rows, header=HEADER + ",mask")
    manifest = read_manifest(site_of(root, mask="mask", on_bad_image="skip", val_fraction=0), 0)
    assert manifest.images == (root / "x1.png",)
    assert manifest.masks == (None,)
    assert "2 warnings, the first: labels.csv:3" in caplog.text
    with pytest.raises(DataError, match=r"labels\.csv:3.*and 1 more"):
        read_manifest(site_of(root, mask="mask"), 0)


def test_nothing_left_after_skipping_is_an_error(write: Any) -> None:
    root = write("gone.png,p2,val,0,1,MILD")
    with pytest.raises(DataError, match="no row is left"):
        read_manifest(site_of(root, on_bad_image="skip"), 0)


def test_without_a_patient_column_every_image_is_a_patient(write: Any) -> None:
    manifest = read_manifest(site_of(write(*ROWS), patient=None), 0)
    assert len(set(manifest.patients)) == 3


def test_the_real_sites_keep_shared_patients_on_one_side(covid_cxr: Path) -> None:
    zones = {"kind": "ordinal", "outputs": list("ABCDEF"), "levels": 4}
    tasks = {"hannover": PROGNOSIS, "international": PROGNOSIS, "brixia-public": zones}
    sides: dict[str, set[str]] = {}
    seen: dict[str, int] = {}
    for folder, space in tasks.items():
        site = site_of(
            covid_cxr / folder,
            {"prognosis": space},
            patient="patient_id",
            splits={"train": "train", "val": "test"},
            validation="hash",
        )
        manifest = read_manifest(site, 0)
        assert set(manifest.splits) == {"train", "val", "test"}
        for patient, split in zip(manifest.patients, manifest.splits, strict=True):
            sides.setdefault(str(patient), set()).add(str(split))
        for patient in set(manifest.patients.tolist()):
            seen[patient] = seen.get(patient, 0) + 1
    assert sum(n > 1 for n in seen.values()) > 5
    assert all(len(splits) == 1 for splits in sides.values())


def test_centre_and_metadata_columns_come_along(write: Any) -> None:
    header = HEADER + ",hospital,view"
    root = write(ROWS[0] + ",A,PA", ROWS[1] + ",B,", ROWS[2] + ",A,AP", header=header)
    manifest = read_manifest(site_of(root, centre="hospital", metadata=["view"]), 0)
    assert {name: column.tolist() for name, column in manifest.columns.items()} == {
        "centre": ["A", "B", "A"],
        "view": ["PA", "", "AP"],
    }
    chosen = manifest.select(np.array([2, 1]))
    assert chosen.columns["view"].tolist() == ["AP", ""]
    assert read_manifest(site_of(root), 0).columns == {}


def test_metadata_columns_must_be_there(write: Any) -> None:
    with pytest.raises(DataError, match=r"no column hospital \(for dataset.centre"):
        read_manifest(site_of(write(*ROWS), centre="hospital"), 0)
    with pytest.raises(DataError, match=r"no column view \(for dataset.metadata"):
        read_manifest(site_of(write(*ROWS), metadata=["view"]), 0)


def test_the_name_centre_has_one_meaning(write: Any) -> None:
    with pytest.raises(ValueError, match="the column centre is not the column hospital"):
        site_of(write(*ROWS), centre="hospital", metadata=["centre"])


def test_pooling_fills_columns_a_site_lacks_with_empty_text(write: Any) -> None:
    root = write(*(row + ",A" for row in ROWS), header=HEADER + ",hospital")
    pixels = np.zeros((3, 4, 4), np.uint8)
    with_centre = Cohort(read_manifest(site_of(root, centre="hospital"), 0), pixels)
    without = Cohort(read_manifest(site_of(root), 0), pixels)
    pooled = pool([without, with_centre]).manifest
    assert pooled.columns["centre"].tolist() == ["", "", "", "A", "A", "A"]
