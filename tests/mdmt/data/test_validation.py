from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from mdmt.config.site import SiteConfig
from mdmt.data.validation import ValidationReport, validate_dataset

TASKS = {
    "prognosis": {"kind": "classification", "classes": ["MILD", "SEVERE"]},
    "severity": {"kind": "ordinal", "outputs": ["A", "B"], "levels": 2},
}


class Dataset:
    """A sound table of eight images, to plant problems in."""

    def __init__(self, root: Path) -> None:
        self.root = root
        rng = np.random.default_rng(0)
        self.rows = []
        for n in range(8):
            self.save(f"{n}.png", rng.integers(0, 256, (80, 80)))
            split = ("train", "train", "train", "train", "val", "val", "test", "test")[n]
            labels = [n % 2, 1 - n % 2, ("MILD", "SEVERE")[n % 2]]
            self.rows.append([f"{n}.png", f"p{n}", split, *map(str, labels)])

    def save(self, name: str, pixels: Any) -> None:
        Image.fromarray(np.asarray(pixels, dtype=np.uint8)).save(self.root / name)

    def validate(self, tasks: dict[str, Any] = TASKS, **dataset: Any) -> ValidationReport:
        header = ["image", "patient", "split", "A", "B", "prognosis"]
        lines = [",".join(row) for row in [header, *self.rows]]
        (self.root / "labels.csv").write_text("\n".join(lines))
        dataset = {
            "kind": "table",
            "root": self.root,
            "patient": "patient",
            "split": "split",
        } | dataset
        return validate_dataset(
            SiteConfig.model_validate({"name": "clinic", "dataset": dataset, "tasks": tasks}), 0
        )


@pytest.fixture
def data(tmp_path: Path) -> Dataset:
    return Dataset(tmp_path)


def only(report: ValidationReport, severity: str, where: str, text: str) -> None:
    (issue,) = report.issues
    assert (issue.severity, issue.where) == (severity, where)
    assert text in issue.message
    assert bool(report.errors) == (severity == "error")


def test_sound_data_give_counts_and_no_issue(data: Dataset) -> None:
    data.rows[0][4] = ""
    report = data.validate()
    assert report.issues == ()
    assert report.images == report.patients == {"train": 4, "val": 2, "test": 2}
    assert report.labels["prognosis"]["train"] == {"prognosis": {"MILD": 2, "SEVERE": 2}}
    assert report.labels["severity"]["train"] == {"A": {"0": 2, "1": 2}, "B": {"0": 2, "1": 1}}


def test_images_and_patients_are_counted_apart(data: Dataset) -> None:
    data.rows[1][1] = "p0"
    report = data.validate()
    assert (report.images["train"], report.patients["train"]) == (4, 3)


def truncate(data: Dataset) -> None:
    image = data.root / "1.png"
    image.write_bytes(image.read_bytes()[:200])


def blank(data: Dataset) -> None:
    data.save("1.png", np.full((80, 80), 7))


def no_image(data: Dataset) -> None:
    (data.root / "1.png").write_text("hello")


def empty(data: Dataset) -> None:
    (data.root / "1.png").write_bytes(b"")


@pytest.mark.parametrize("damage", [truncate, blank, no_image, empty])
def test_a_bad_image_is_an_error_or_where_skipped_a_warning(data: Dataset, damage: Any) -> None:
    damage(data)
    only(data.validate(), "error", "labels.csv:3", "1.png")
    skipped = data.validate(on_bad_image="skip")
    only(skipped, "warning", "labels.csv:3", "1.png")
    assert skipped.images["train"] == 3
    assert skipped.labels["prognosis"]["train"] == {"prognosis": {"MILD": 2, "SEVERE": 1}}


def test_all_bad_labels_and_all_bad_images_are_listed_at_once(data: Dataset) -> None:
    data.rows[1][3] = "2"
    data.rows[2][5] = "DEAD"
    data.rows[3][0] = "gone.png"
    (data.root / "4.png").write_bytes(b"")
    (data.root / "5.png").write_bytes(b"")
    found = {issue.where for issue in data.validate().errors}
    assert found == {f"labels.csv:{line}" for line in (3, 4, 5, 6, 7)}


def test_equal_files_across_splits_are_an_error(data: Dataset) -> None:
    shutil.copy(data.root / "0.png", data.root / "7.png")
    text = "the same file as labels.csv:2, but that is train and this is test"
    only(data.validate(), "error", "labels.csv:9", text)


def test_equal_files_are_found_by_their_own_rows_beside_skipped_ones(data: Dataset) -> None:
    blank(data)
    shutil.copy(data.root / "3.png", data.root / "7.png")
    (error,) = data.validate(on_bad_image="skip").errors
    assert error.where == "labels.csv:9"
    assert "labels.csv:5" in error.message


def test_equal_files_within_a_split_are_a_warning(data: Dataset) -> None:
    shutil.copy(data.root / "0.png", data.root / "1.png")
    only(data.validate(), "warning", "labels.csv:3", "the same file as labels.csv:2")


def test_a_patient_in_two_splits_is_an_error(data: Dataset) -> None:
    data.rows[7][1] = "p0"
    only(data.validate(), "error", "labels.csv:9", "patient p0 is in test here and in train")


def test_a_class_absent_from_train_is_a_warning(data: Dataset) -> None:
    data.rows[1][5] = data.rows[3][5] = "MILD"
    only(data.validate(), "warning", "task prognosis", "no SEVERE in the train split")


def test_a_task_without_training_labels_is_a_warning_beside_another_that_has_some(
    data: Dataset,
) -> None:
    for row in data.rows[:4]:
        row[5] = ""
    only(data.validate(), "warning", "task prognosis", "no labelled image in the train split")


def test_no_training_label_at_all_is_an_error(data: Dataset) -> None:
    data.rows = data.rows[4:]
    report = data.validate()
    only(report, "error", "site clinic", "no labelled image in the train split")


def test_splits_without_images_are_warnings(data: Dataset) -> None:
    data.rows = data.rows[:4]
    report = data.validate(val_fraction=0)
    assert [f.message for f in report.issues] == [
        f"no image in the {s} split" for s in ("val", "test")
    ]
    assert not report.errors


@pytest.mark.parametrize("shape", [(40, 40), (80, 240)])
def test_a_thumbnail_or_a_strip_is_a_warning(data: Dataset, shape: tuple[int, int]) -> None:
    data.save("2.png", np.random.default_rng(9).integers(0, 256, shape))
    only(data.validate(), "warning", "labels.csv:4", f"{shape[1]} x {shape[0]} pixels")


def test_missing_columns_and_tables_are_issues_and_not_exceptions(data: Dataset) -> None:
    only(data.validate(patient="person"), "error", "site clinic", "no column person")
    only(data.validate(table="no.csv"), "error", "site clinic", "no.csv: no such file")


def test_an_empty_mask_is_an_error(data: Dataset) -> None:
    for row in data.rows:
        row[1] = "0.png"  # the patient column doubles as the mask column: a good mask for everyone
        row[2] = "train"
    data.save("empty.png", np.zeros((80, 80)))
    data.rows[2][1] = "empty.png"
    report = data.validate(patient=None, mask="patient", val_fraction=0)
    assert [(f.where, "mask" in f.message) for f in report.errors] == [("labels.csv:4", True)]


def test_progress_counts_every_image(data: Dataset) -> None:
    data.validate()
    dataset = {"kind": "table", "root": data.root, "split": "split"}
    site = SiteConfig.model_validate({"name": "clinic", "dataset": dataset, "tasks": TASKS})
    told: list[tuple[int, int]] = []
    validate_dataset(site, 0, progress=lambda done, total: told.append((done, total)))
    assert told == [(n, 8) for n in range(1, 9)]


def test_empty_and_one_class_splits_are_warnings(data: Dataset) -> None:
    data.rows[6][5] = "SEVERE"  # the test split had one of each
    report = data.validate({"prognosis": TASKS["prognosis"]})
    only(report, "warning", "task prognosis", "the test split has too few classes")
    assert "prognosis: no MILD" in report.issues[0].message
    assert report.division == "the splits are those of the dataset"
    for row in data.rows[6:]:
        row[5] = ""
        row[3] = "1"
    found = [(issue.where, issue.message) for issue in data.validate().issues]
    assert ("task prognosis", "no labelled image in the test split") in found
    assert any(w == "task severity" and "A: no 0" in message for w, message in found)
