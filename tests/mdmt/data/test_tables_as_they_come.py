"""Tables as people have them: each is read as it was meant, or refused in one line."""

from __future__ import annotations

import gzip
import unicodedata
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import openpyxl
import pytest

from mdmt.config.site import SiteConfig
from mdmt.data.find_files import FileFinder
from mdmt.data.readers import inspect_manifest
from mdmt.data.tabular import read_tabular_file
from mdmt.errors import DataError

GRADE = {"kind": "classification", "classes": ["MILD", "SEVERE"]}
SCORE = {"kind": "regression", "outputs": ["grade"], "range": [0, 3]}


def site_of(root: Path, task: dict[str, Any], **dataset: Any) -> SiteConfig:
    keys = {"kind": "table", "root": root, "patient": "patient", **dataset}
    tasks = {"grade": {**task, "columns": ["grade"]}}
    return SiteConfig.model_validate({"name": "clinic", "dataset": keys, "tasks": tasks})


def write(root: Path, *rows: str, header: str = "image,patient,grade") -> Path:
    for n in range(1, 10):
        (root / f"x{n}.png").touch()
    (root / "labels.csv").write_text("\n".join([header, *rows, ""]), encoding="utf-8")
    return root


# Text files


def test_a_quote_that_spans_rows_is_refused_with_its_lines(tmp_path: Path) -> None:
    write(tmp_path, "x1.png,p1,MILD", 'x2.png,p2,"SEV', 'x3.png,p3,"MILD"', "x4.png,p4,MILD")
    with pytest.raises(DataError, match=r"labels\.csv: .* lines 3 to 4: a quotation mark"):
        read_tabular_file(tmp_path / "labels.csv")


def test_a_quote_that_is_never_closed_is_refused(tmp_path: Path) -> None:
    write(tmp_path, "x1.png,p1,MILD", 'x2.png,p2,"SEV')
    with pytest.raises(DataError, match=r"lines? 3.*: a quotation mark"):
        read_tabular_file(tmp_path / "labels.csv")


def test_a_cell_that_holds_rows_is_a_warning(tmp_path: Path) -> None:
    write(tmp_path, 'x1.png,p1,"MILD', 'x2.png,p2,SEVERE"', "x3.png,p3,MILD")
    (issue,) = read_tabular_file(tmp_path / "labels.csv").issues
    assert (issue.severity, issue.where) == ("warning", "labels.csv:2")
    assert "looks like a row" in issue.message


def test_the_delimiter_may_be_named_and_the_file_compressed(tmp_path: Path) -> None:
    text = "sep=;\nimage;patient;grade\nx1.png;p1;a,b\n"
    (tmp_path / "labels.csv.gz").write_bytes(gzip.compress(text.encode("utf-16")))
    table = read_tabular_file(tmp_path / "labels.csv.gz")
    assert table.columns == ("image", "patient", "grade")
    assert [(row.where, row.cells["grade"]) for row in table.rows] == [("labels.csv.gz:3", "a,b")]


def test_invisible_characters_do_not_make_a_class(tmp_path: Path) -> None:
    root = write(tmp_path, "x1.png,p1,SEVERE\u200b", "x2.png,p2,\ufeffMILD\xa0")
    manifest, issues = inspect_manifest(site_of(root, GRADE), 0)
    assert manifest.targets["grade"].tolist() == [[1], [0]]
    assert issues == []


# Spreadsheets


def spreadsheet(path: Path, *rows: tuple[object, ...]) -> Path:
    workbook = openpyxl.Workbook()
    for row in (("image", "patient", "grade"), *rows):
        workbook.active.append(row)
    workbook.save(path)
    return path


def changed(path: Path, member: str, old: bytes, new: bytes) -> None:
    """Replace bytes of a file inside an XLSX file."""
    with zipfile.ZipFile(path) as archive:
        content = {name: archive.read(name) for name in archive.namelist()}
    assert old in content[member]
    content[member] = content[member].replace(old, new)
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in content.items():
            archive.writestr(name, data)


@pytest.mark.parametrize("size", [b"A1", b"A1:C2", b"A1:B3"])
def test_a_stale_size_hides_no_row(tmp_path: Path, size: bytes) -> None:
    path = spreadsheet(tmp_path / "a.xlsx", *[(f"x{n}.png", n, "MILD") for n in range(1, 6)])
    changed(path, "xl/worksheets/sheet1.xml", b'ref="A1:C6"', b'ref="' + size + b'"')
    table = read_tabular_file(path)
    assert [row.cells["patient"] for row in table.rows] == ["1", "2", "3", "4", "5"]


def test_a_formula_that_was_never_calculated_is_named_by_row(tmp_path: Path) -> None:
    path = spreadsheet(tmp_path / "a.xlsx", ("x1.png", 1, "MILD"), ("x2.png", 2, '=IF(1,"A","B")'))
    table = read_tabular_file(path)
    assert len(table.rows) == 1
    (issue,) = table.issues
    assert (issue.severity, issue.where) == ("error", "a.xlsx:3")
    assert "column grade" in issue.message
    assert "never calculated" in issue.message


@pytest.mark.parametrize("member", ["xl/worksheets/sheet1.xml", "xl/workbook.xml", "xl/styles.xml"])
def test_damaged_xml_is_refused_in_one_line(tmp_path: Path, member: str) -> None:
    path = spreadsheet(tmp_path / "a.xlsx", ("x1.png", 1, "MILD"))
    changed(path, member, b"<", b"<<")
    with pytest.raises(DataError, match=r"a\.xlsx: not a valid XLSX file: .*; save it again") as e:
        read_tabular_file(path)
    assert "\n" not in str(e.value)


def test_an_old_excel_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.xls").write_bytes(b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(600))
    with pytest.raises(DataError, match=r"a\.xls: an old Excel file .* save it as XLSX or CSV"):
        read_tabular_file(tmp_path / "a.xls")


# Labels and patients


@pytest.mark.parametrize("text", ["?", "-", "N/A", "None", "null", "#N/A", "NaN", "."])
def test_words_for_a_missing_label_are_no_label(tmp_path: Path, text: str) -> None:
    root = write(tmp_path, "x1.png,p1,MILD", f"x2.png,p2,{text}")
    manifest, issues = inspect_manifest(site_of(root, GRADE), 0)
    assert manifest.rows == ("labels.csv:2",)
    assert issues == []
    assert manifest.account == (
        "labels.csv: 2 rows, 1 are used; 1 have no label of the site's tasks (labels.csv:3)"
    )


def test_a_class_may_be_called_none(tmp_path: Path) -> None:
    root = write(tmp_path, "x1.png,p1,none", "x2.png,p2,mild")
    task = {"kind": "classification", "classes": ["none", "mild"]}
    manifest, _ = inspect_manifest(site_of(root, task), 0)
    assert manifest.targets["grade"].tolist() == [[0], [1]]


def test_a_decimal_comma_is_a_number(tmp_path: Path) -> None:
    root = write(tmp_path, "x1.png;p1;0,5", "x2.png;p2;3", header="image;patient;grade")
    manifest, issues = inspect_manifest(site_of(root, SCORE), 0)
    assert manifest.targets["grade"].tolist() == [[0.5], [3]]
    assert issues == []


def test_the_account_says_why_rows_are_not_used(tmp_path: Path) -> None:
    rows = ["x1.png,p1,MILD", "x2.png,p2,", "x3.png,p3,GRAVE", "x4.png,p4", "x5.png,p5,MILD"]
    root = write(tmp_path, *rows)
    site = site_of(root, GRADE, where={"patient": ["p1", "p2", "p3"]})
    assert inspect_manifest(site, 0)[0].account == (
        "labels.csv: 5 rows, 1 are used; 1 do not match dataset.where; 1 have no label of the"
        " site's tasks (labels.csv:3); 2 have a problem"
    )


def test_an_id_that_became_a_float_is_the_same_patient(tmp_path: Path) -> None:
    root = write(tmp_path, "x1.png,100,MILD", "x2.png,100.0,MILD", "x3.png,1.5,MILD")
    manifest, _ = inspect_manifest(site_of(root, GRADE), 0)
    assert manifest.patients.tolist() == ["100", "100", "1.5"]
    assert manifest.splits[0] == manifest.splits[1]


@pytest.mark.parametrize(("first", "second"), [("007", "7"), ("P1a", "p1A")])
def test_similar_patient_ids_are_a_warning(tmp_path: Path, first: str, second: str) -> None:
    root = write(tmp_path, f"x1.png,{first},MILD", f"x2.png,{second},MILD", "x3.png,q,MILD")
    (issue,) = inspect_manifest(site_of(root, GRADE), 0)[1]
    assert issue.severity == "warning"
    assert f"{first} (labels.csv:2) and {second}" in issue.message


def test_without_a_patient_column_there_is_a_warning(tmp_path: Path) -> None:
    root = write(tmp_path, "x1.png,p1,MILD")
    (issue,) = inspect_manifest(site_of(root, GRADE, patient=None), 0)[1]
    assert issue.severity == "warning"
    assert "every image counts as one patient" in issue.message


# Paths


@pytest.mark.parametrize(
    "text",
    [
        "images/a01.png",
        "images\\a01.png",
        ".\\images\\a01.png",
        "/images/a01.png",
        "Images/A01.PNG",
        "images/a01",
        "cohort/images/a01.png",
        "a01.png",
        "A01",
    ],
)
def test_a_file_is_found_as_people_write_it(tmp_path: Path, text: str) -> None:
    root = tmp_path / "cohort"
    (root / "images").mkdir(parents=True)
    (root / "images" / "a01.png").touch()
    (root / "images" / "a011.png").touch()
    found = FileFinder(root).find(text)
    assert found is not None
    assert found.samefile(root / "images" / "a01.png")


def test_composed_and_decomposed_letters_name_one_file(tmp_path: Path) -> None:
    (tmp_path / unicodedata.normalize("NFD", "Jürgen.png")).touch()
    text = unicodedata.normalize("NFC", "Jürgen.png")
    assert FileFinder(tmp_path).find(text) is not None


@pytest.mark.parametrize("text", ["a01", "b.png", "x" * 300, "../outside.png", "a\0b", ""])
def test_no_file_is_guessed(tmp_path: Path, text: str) -> None:
    root = tmp_path / "cohort"
    root.mkdir()
    for name in ("a01.png", "a01.dcm", "B.png", "b.PNG"):
        (root / name).touch()
    assert FileFinder(root).find(text) is None


def test_the_nearest_file_is_named(tmp_path: Path) -> None:
    root = write(tmp_path, "x1.png,p1,MILD", "x22.png,p2,MILD")
    (issue,) = inspect_manifest(site_of(root, GRADE), 0)[1]
    assert "x22.png is not a file; did you mean" in issue.message
    assert np.char.find(issue.message, "x2.png?") >= 0
