from __future__ import annotations

import csv
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from published_builders import (
    BRIXIA_HEADER,
    BRIXIA_ROWS,
    ZONE_TASK,
    brixia_site,
    write_brixia,
    write_split_files,
)
from pydicom import dcmread
from pydicom.encaps import encapsulate
from pydicom.uid import JPEG2000Lossless

from mdmt.config import SiteConfig
from mdmt.data.brixia import centre_of, labels_of, parse_score
from mdmt.data.images import read_radiograph
from mdmt.data.manifest import Manifest
from mdmt.data.readers import inspect_manifest, read_manifest
from mdmt.data.split_files import read_split_files
from mdmt.data.validation import validate_dataset
from mdmt.errors import DataError

LUNG_TASK = {"kind": "ordinal", "outputs": ["right", "left"], "levels": 4}
CLASSES = ["none", "mild", "moderate", "severe"]
GLOBAL_TASK = {
    "kind": "classification",
    "classes": CLASSES,
    "values": dict(zip("0123", CLASSES, strict=True)),
}
SCORES = "img label_dim scores center"


def read(root: Path, task: dict[str, Any] = ZONE_TASK, **dataset: Any) -> Manifest:
    return read_manifest(SiteConfig.model_validate(brixia_site(root, task, **dataset)), 0)


def found(root: Path, task: dict[str, Any] = ZONE_TASK, **dataset: Any) -> list[str]:
    site = SiteConfig.model_validate(brixia_site(root, task, **dataset))
    return [str(issue) for issue in inspect_manifest(site, 0)[1]]


def named(manifest: Manifest, values: np.ndarray) -> dict[str, Any]:
    return dict(zip((p.stem for p in manifest.images), values.tolist(), strict=True))


@pytest.mark.parametrize(
    ("text", "scores"),
    [
        ("013112", (0, 1, 3, 1, 1, 2)),
        ("[12023]", (0, 1, 2, 0, 2, 3)),
        ("12023", (0, 1, 2, 0, 2, 3)),
        ("[0]", (0, 0, 0, 0, 0, 0)),
        ("333333", (3, 3, 3, 3, 3, 3)),
    ],
)
def test_score_reads_as_six_digits_whatever_zeros_it_lost(text: str, scores: Any) -> None:
    assert parse_score(text) == scores


@pytest.mark.parametrize("text", ["0131121", "1.0", "-1", "１２０２３", "[1,2]", "x"])
def test_what_is_no_score_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is not a Brixia score; expected six digits"):
        parse_score(text)


def test_digit_four_is_refused_by_zone() -> None:
    with pytest.raises(ValueError, match="'003141' has 4 in zone E: scores are 0 to 3"):
        parse_score("003141")


@pytest.mark.parametrize(
    ("scores", "right", "left", "total"),
    [
        ("000000", 0, 0, 0),
        ("001000", 0, 0, 0),  # a lung's sum: 1
        ("002002", 1, 1, 0),  # 2; all: 4
        ("022001", 1, 0, 1),  # 4; all: 5
        ("023112", 2, 1, 1),  # 5 and 4; all: 9
        ("133111", 2, 1, 2),  # 7 and 3; all: 10
        ("233213", 3, 2, 2),  # 8 and 6; all: 14
        ("333123", 3, 2, 3),  # 9 and 6; all: 15
    ],
)
def test_levels_of_lungs_and_of_the_whole(scores: str, right: int, left: int, total: int) -> None:
    zones = parse_score(scores)
    assert labels_of(zones, "lungs") == {"right": right, "left": left}
    assert labels_of(zones, "global") == {"global": total}


@pytest.mark.parametrize("bom", [True, False])
def test_zones_centres_and_patients_are_read(tmp_path: Path, bom: bool) -> None:
    manifest = read(write_brixia(tmp_path / "bx", bom=bom), metadata=["Sex"])
    assert named(manifest, manifest.targets["severity"])["1"] == [0, 1, 3, 1, 1, 2]
    assert manifest.patients.tolist()[-3:] == ["s9", "s10", "s10"]
    assert Counter(manifest.columns["centre"].tolist()) == {
        "SIEMENS": 4,
        "AGFA": 3,
        "CARESTREAM": 4,
    }
    assert manifest.columns["Sex"].tolist()[:4] == ["M", "F", "M", ""]
    assert manifest.rows[0] == "metadata_global_v2.csv:2"


def test_lungs_are_told_apart_by_name_whatever_the_tasks_order(tmp_path: Path) -> None:
    root = write_brixia(tmp_path / "bx")
    there = read(root, LUNG_TASK, structure="lungs")
    back = read(root, LUNG_TASK | {"outputs": ["left", "right"]}, structure="lungs")
    # 000123: the right lung is clear, the left has 6.
    assert named(there, there.targets["severity"])["5"] == [0, 2]
    assert named(back, back.targets["severity"])["5"] == [2, 0]


def test_global_level_is_a_class_or_an_ordinal_output(tmp_path: Path) -> None:
    root = write_brixia(tmp_path / "bx")
    for task in (GLOBAL_TASK, {"kind": "ordinal", "outputs": ["severity"], "levels": 4}):
        manifest = read(root, task, structure="global")
        levels = named(manifest, manifest.targets["severity"])
        assert levels["2"] == [0]
        assert levels["1"] == [1]  # 8
        assert levels["3"] == [3]  # 18


@pytest.mark.parametrize(
    ("task", "structure", "message"),
    [
        (LUNG_TASK, "zones", "its columns are right, left"),
        (ZONE_TASK, "lungs", "its columns are A, B, C, D, E, F"),
        (ZONE_TASK | {"levels": 3}, "zones", "expected a whole number from 0 to 2"),
        (
            {"kind": "regression", "outputs": list("ABCDEF"), "range": [0, 2]},
            "zones",
            "expected a number from 0 to 2",
        ),
        (GLOBAL_TASK | {"values": {}}, "global", "expected one of"),
        ({"kind": "multilabel", "labels": list("ABCDEF")}, "zones", "expected 0 or 1"),
    ],
)
def test_task_that_does_not_fit_the_structure_is_refused(
    tmp_path: Path, task: dict[str, Any], structure: str, message: str
) -> None:
    with pytest.raises(DataError, match=f"site bx: task severity does not fit .*{message}"):
        read(write_brixia(tmp_path / "bx"), task, structure=structure)


def test_unknown_manufacturer_needs_a_centre(tmp_path: Path) -> None:
    root = write_brixia(tmp_path / "bx", [*BRIXIA_ROWS[:-1], "11.dcm;Philips;220022;0;s10;M"])
    (problem,) = found(root)
    assert problem == (
        "metadata_global_v2.csv:12: unknown manufacturer 'Philips'; set its centre in"
        " dataset.manufacturers"
    )
    manifest = read(root, manufacturers={"PHILIPS": "OTHER"})
    assert manifest.columns["centre"][-1] == "OTHER"


def test_manufacturers_own_mapping_does_not_undo_the_papers() -> None:
    assert centre_of("Kodak", {}) == "SIEMENS"
    assert centre_of("AGFA", {"PHILIPS": "OTHER"}) == "AGFA"


def test_consensus_set_is_the_test_and_its_patients_are_trained_on_nowhere(tmp_path: Path) -> None:
    rows = [*BRIXIA_ROWS[:-1], "11.dcm;CARESTREAM;220022;0;s8;M"]  # s8 is in the consensus set
    root = write_brixia(tmp_path / "bx", rows)
    (root / "consensus.csv").write_text(
        "Filename,ModeA,ModeB,ModeC,ModeD,ModeE,ModeF\n4.dcm,0,0,1,1,2,2\n8.dcm,3,3,3,0,0,0\n"
    )
    manifest = read(root, test="consensus", consensus="consensus.csv")
    splits = named(manifest, manifest.splits)
    assert {name for name, split in splits.items() if split == "test"} == {"4", "8"}
    assert "11" not in splits
    scores = named(manifest, manifest.targets["severity"])
    assert scores["4"] == [0, 0, 1, 1, 2, 2]
    assert scores["8"] == [3, 3, 3, 0, 0, 0]
    assert scores["1"] == [0, 1, 3, 1, 1, 2]
    (warning,) = found(root, test="consensus")
    assert "csv:12: left out: another image of the patient is in the consensus test set" in warning


def test_without_subjects_studies_count_as_patients_with_a_warning(tmp_path: Path) -> None:
    root = write_brixia(tmp_path / "bx", header=BRIXIA_HEADER.replace("Subject", "StudyId"))
    assert "each study counts as a patient" in found(root)[0]
    assert len(set(read(root).patients.tolist())) == 10


def lines(*numbers: int) -> list[str]:
    """Lines of a split file, the scores as the authors published them: leading zeros lost."""
    scores = {row.split(";")[0][:-4]: row.split(";")[2] for row in BRIXIA_ROWS}
    return [f"{n} SMALL [{int(scores[str(n)])}] SIEMENS" for n in numbers]


def test_split_files_divide_and_agree_although_they_lost_zeros(tmp_path: Path) -> None:
    root = write_brixia(tmp_path / "bx")
    write_split_files(
        root / "folds" / "5" / "0",
        SCORES,
        train=lines(1, 2, 3, 4, 5),
        val=lines(6, 7),
        test=lines(8, 9),
    )
    manifest = read(root, split_files="folds/5/0")
    assert manifest.splits.tolist() == ["train"] * 5 + ["val"] * 2 + ["test"] * 2
    (warning,) = found(root, split_files="folds/5/0")
    assert "2 of 11 images are in no split file and are dropped" in warning


@pytest.mark.parametrize(
    ("splits", "message"),
    [
        (
            {"train": [*lines(1), "2 SMALL [100000] SIEMENS"]},
            r"train.txt:3: scores is \[100000\], but",
        ),
        ({"train": lines(10), "test": lines(11)}, "patient s10 is in test here and in train in"),
        (
            {"train": [*lines(1), "77 BIG [333333] AGFA"]},
            "1 images are in no table, the first",
        ),
    ],
)
def test_split_files_that_contradict_the_table_or_leak_are_refused(
    tmp_path: Path, splits: dict[str, list[str]], message: str
) -> None:
    root = write_brixia(tmp_path / "bx")
    write_split_files(root / "0", SCORES, **splits)
    with pytest.raises(DataError, match=message):
        read(root, split_files="0")


def test_the_empty_cell_of_the_folders_that_leave_a_vendor_out_is_read(tmp_path: Path) -> None:
    """Two blanks under a header of four: ``label_dim`` is empty; a vendor may hold blanks."""
    folder = write_split_files(
        tmp_path / "0",
        SCORES,
        train=["1  [13112] SIEMENS", "2  [0] VILLA SISTEMI MEDICALI"],
        test=["3 SMALL [333333] VILLA SISTEMI"],
    )
    read = {name: one.row.cells for name, one in read_split_files(folder).items()}
    assert read["1"] == {"img": "1", "label_dim": "", "scores": "[13112]", "center": "SIEMENS"}
    assert (read["2"]["scores"], read["2"]["center"]) == ("[0]", "VILLA SISTEMI MEDICALI")
    assert (read["3"]["label_dim"], read["3"]["center"]) == ("SMALL", "VILLA SISTEMI")


@pytest.mark.parametrize(
    ("header", "line", "message"),
    [
        (SCORES, "1 [13112] SIEMENS", r"train.txt:2: 3 cells under a header of 4"),
        (SCORES, "1  13112 VILLA SISTEMI", "train.txt:2: it can be read in two ways"),
        ("img label center", "P_1  MILD A", "train.txt:2: it can be read in two ways"),
    ],
)
def test_a_line_of_a_split_file_whose_cells_are_unclear_is_refused(
    tmp_path: Path, header: str, line: str, message: str
) -> None:
    folder = write_split_files(tmp_path / "0", header, train=[line])
    with pytest.raises(DataError, match=message):
        read_split_files(folder)


def test_columns_may_be_aligned_with_blanks(tmp_path: Path) -> None:
    folder = write_split_files(tmp_path / "0", "img label center", train=["P_1    MILD   A"])
    cells = read_split_files(folder)["P_1"].row.cells
    assert cells == {"img": "P_1", "label": "MILD", "center": "A"}


def test_an_image_in_two_split_files_is_refused(tmp_path: Path) -> None:
    root = write_brixia(tmp_path / "bx")
    write_split_files(root / "0", SCORES, train=lines(1, 2), test=lines(2))
    with pytest.raises(DataError, match=r"test.txt:2: image 2 is already in train.txt:3 \(train\)"):
        read(root, split_files="0")


@pytest.mark.parametrize("number", [1, 2])  # MONOCHROME2, MONOCHROME1
def test_jpeg_2000_files_show_what_they_showed_uncompressed(tmp_path: Path, number: int) -> None:
    openjpeg = pytest.importorskip("openjpeg.utils", reason="no dicom extra installed")
    root = write_brixia(tmp_path / "bx")
    path = root / "dicom_clean" / f"{number}.dcm"
    before = read_radiograph(path)
    dataset = dcmread(path)
    dataset.PixelData = encapsulate([openjpeg.encode_array(dataset.pixel_array, bits_stored=12)])
    dataset["PixelData"].is_undefined_length = True
    dataset.file_meta.TransferSyntaxUID = JPEG2000Lossless
    dataset.save_as(path, enforce_file_format=True)
    assert validate_dataset(SiteConfig.model_validate(brixia_site(root)), 0).errors == ()
    np.testing.assert_array_equal(read_radiograph(path), before)


@pytest.fixture(scope="module")
def layout(covid_cxr: Path) -> Path:
    return covid_cxr / "original-layouts" / "BRIXIA"


def test_original_layout_reads_as_its_table_says(layout: Path) -> None:
    manifest = read(layout)
    with (layout / "metadata_global_v2.csv").open(encoding="utf-8-sig") as file:
        rows = {row["Filename"]: row for row in csv.DictReader(file, delimiter=";")}
    assert len(manifest) == len(rows) == 50
    for index, path in enumerate(manifest.images):
        scores = manifest.targets["severity"][index]
        assert "".join(f"{score:g}" for score in scores) == rows[path.name]["BrixiaScore"]
        assert scores.sum() == float(rows[path.name]["BrixiaScoreGlobal"])
        assert manifest.patients[index] == rows[path.name]["Subject"]
    centres = Counter(manifest.columns["centre"].tolist())
    assert centres == {"SIEMENS": 24, "CARESTREAM": 20, "AGFA": 6}


def test_original_layout_has_its_authors_splits_and_is_valid(layout: Path) -> None:
    site = SiteConfig.model_validate(brixia_site(layout, split_files="folds/5/0"))
    report = validate_dataset(site, 0)
    assert report.issues == ()
    assert report.images == {"train": 32, "val": 9, "test": 9}


def test_every_encoding_of_the_original_layout_shows_the_radiograph(
    layout: Path, covid_cxr: Path
) -> None:
    with (layout / "link_to_covid-cxr.csv").open() as file:
        links = {row["Filename"]: row["image_id"] for row in csv.DictReader(file)}
    for path in sorted((layout / "dicom_clean").glob("*.dcm"))[::5]:
        picture = covid_cxr / "brixia-public" / "images" / f"{links[path.name]}.png"
        stored, known = read_radiograph(path), read_radiograph(picture)
        assert stored.shape == known.shape
        # MONOCHROME1 read as it stands would give -1, reshaped rows about 0.
        assert np.corrcoef(stored.ravel(), known.ravel())[0, 1] > 0.95
