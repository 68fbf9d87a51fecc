"""The kinds of datasets a site can have, and how their files are laid out."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from mdmt.strict import Strict

__all__ = ["AIforCOVID", "Brixia", "DatasetConfig", "Synthetic", "Table"]


class _Fractions(Strict):
    val_fraction: float
    test_fraction: float

    @model_validator(mode="after")
    def _some_left_to_train_on(self) -> Self:
        if self.val_fraction + self.test_fraction >= 1:
            raise ValueError("val_fraction + test_fraction must be below 1")
        return self


class Table(_Fractions):
    """A CSV or XLSX file with one row per image."""

    kind: Literal["table"] = "table"
    root: Path
    """Folder that image and mask paths are relative to."""
    table: Path = Path("labels.csv")
    """Relative to `root`."""
    image: str = "image"
    """Column of image paths."""
    patient: str | None = None
    """Column of patient ids; without it every image counts as one patient."""
    split: str | None = None
    """Column of splits; without it patients are split 60/20/20 with the federation's seed."""
    splits: dict[str, Literal["train", "val", "test"]] | None = None
    """What the table's split names mean, such as ``{val: test}``."""
    mask: str | None = None
    """Column of lung masks."""
    where: dict[str, str | tuple[str, ...]] = {}
    """Keep only rows whose column has this value, or one of these."""
    centre: str | None = None
    """Column of centres: folds are stratified by it, or leave one out."""
    metadata: tuple[str, ...] = ()
    """Columns that a study's `metadata` arm may use, such as ``[view, age, sex]``."""
    val_fraction: Annotated[float, Field(ge=0, lt=1)] = 0.2
    """Share of patients carved for validation (from train) where the table has none."""
    test_fraction: Annotated[float, Field(ge=0, lt=1)] = 0.2
    """Share of patients kept for the test where the table has no split column."""
    on_bad_image: Literal["error", "skip"] = "error"

    @model_validator(mode="after")
    def _one_meaning_of_centre(self) -> Self:
        if "centre" in self.metadata and self.centre not in (None, "centre"):
            raise ValueError(f"metadata: the column centre is not the centre, {self.centre}")
        return self


class AIforCOVID(_Fractions):
    """AIforCOVID (Soda et al. 2021): outcomes at six hospitals, in up to three releases."""

    kind: Literal["aiforcovid"]
    root: Path
    """Folder that holds the spreadsheets and the image folders."""
    tables: dict[Path, Path] = {}
    """Spreadsheet: folder of its images, both under `root`; else those releases that are there."""
    patient: str | None = None
    """Column of patient ids; without it every image is a patient's only one."""
    split_files: Path | None = None
    """Folder of ``train.txt``, ``val.txt`` and ``test.txt``, such as ``folds/5/0``."""
    metadata: tuple[str, ...] = ()
    """Columns that a study's `metadata` arm may use, such as ``[Age, Sex]``."""
    val_fraction: Annotated[float, Field(ge=0, lt=1)] = 0.2
    test_fraction: Annotated[float, Field(ge=0, lt=1)] = 0.2
    on_bad_image: Literal["error", "skip"] = "error"


class Brixia(_Fractions):
    """BRIXIA (Signoroni et al. 2021): radiographs with six zone scores each."""

    kind: Literal["brixia"]
    root: Path
    """Folder that holds the table and the images."""
    table: Path = Path("metadata_global_v2.csv")
    images: Path = Path("dicom_clean")
    """Folder of the images, relative to `root`."""
    structure: Literal["zones", "lungs", "global"] = "zones"
    """What the labels are: scores A to F; a level per lung, right and left; one level."""
    test: Literal["patients", "consensus"] = "patients"
    """The test split: `test_fraction` of the patients, or the consensus test set."""
    consensus: Path | None = None
    """Table of five radiologists' scores, whose modes are the consensus test set's labels."""
    patient: str | None = None
    """Column of patient ids; ``Subject`` unless given, or else ``StudyId``."""
    manufacturers: dict[str, str] = {}
    """Centre of manufacturers beyond those known, such as ``{PHILIPS: SIEMENS}``."""
    split_files: Path | None = None
    """Folder of ``train.txt``, ``val.txt`` and ``test.txt``, such as ``folds/5/0``."""
    metadata: tuple[str, ...] = ()
    """Columns that a study's `metadata` arm may use, such as ``[Sex, Modality]``."""
    val_fraction: Annotated[float, Field(ge=0, lt=1)] = 0.2
    test_fraction: Annotated[float, Field(ge=0, lt=1)] = 0.2
    on_bad_image: Literal["error", "skip"] = "error"

    @model_validator(mode="after")
    def _one_source_of_splits(self) -> Self:
        if self.split_files is not None and self.test == "consensus":
            raise ValueError("test: consensus contradicts split_files: keep one of them")
        if self.consensus is not None and self.test != "consensus":
            raise ValueError("consensus: needs test: consensus, whose images it labels")
        return self


class Synthetic(_Fractions):
    """Drawn chest radiographs, written once as DICOM files under `root`."""

    kind: Literal["synthetic"]
    root: Path | None = None
    """Where the files are written; in the cache folder unless given."""
    patients: Annotated[int, Field(ge=3)] = 60
    images_per_patient: Annotated[int, Field(ge=1, le=8)] = 2
    size: Annotated[int, Field(ge=32, le=4096)] = 128
    """Side of the drawn radiograph in pixels."""
    coupling: Annotated[float, Field(ge=0)] = 4.0
    """How much the outcome depends on the zone scores; 0: not at all (the negative control)."""
    noise: Annotated[float, Field(ge=0)] = 0.05
    """Standard deviation of the pixel noise, as a fraction of full scale."""
    seed: Annotated[int, Field(ge=0)] = 0
    test_fraction: Annotated[float, Field(ge=0, lt=1)] = 0.3
    val_fraction: Annotated[float, Field(ge=0, lt=1)] = 0.2
    on_bad_image: Literal["error", "skip"] = "error"


DatasetConfig = Annotated[Table | AIforCOVID | Brixia | Synthetic, Field(discriminator="kind")]
