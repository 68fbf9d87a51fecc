"""The kinds of datasets that a site can have, and the layout of their files."""

from pathlib import Path
from typing import Annotated, ClassVar, Literal, Self

from pydantic import BeforeValidator, Field, SerializeAsAny, model_validator

from mdmt.registry import Registry
from mdmt.strict import Strict, by_kind

Fraction = Annotated[float, Field(ge=0, lt=1)]
BY_HASH = "hash"
"""The value of `Table.split` that is not a column."""


class Dataset(Strict):
    """The common keys of all kinds of datasets. A subclass adds its own keys."""

    kind: str
    root: Path | None = None
    """Folder of the dataset."""
    val_fraction: Fraction = 0.2
    """Fraction of the patients for validation if the dataset has no validation split."""
    test_fraction: Fraction = 0.2
    """Fraction of the patients for the test if the dataset has no test split."""
    on_bad_image: Literal["error", "skip"] = "error"

    reader: ClassVar[str]
    """The reader, as ``package.module:function``; see `mdmt.data.readers.Reader`."""

    @model_validator(mode="after")
    def _some_left_to_train_on(self) -> Self:
        if self.val_fraction + self.test_fraction >= 1:
            raise ValueError("val_fraction + test_fraction must be below 1")
        return self


dataset_kinds: Registry[type[Dataset]] = Registry("dataset kind", "mdmt.readers")
"""Classes of datasets by their ``kind``."""


@dataset_kinds.register("table")
class Table(Dataset):
    """A CSV or XLSX file with one row per image."""

    reader: ClassVar[str] = "mdmt.data.table:read_table"

    kind: Literal["table"] = "table"
    root: Path
    """Folder that the paths of images and masks start at."""
    table: Path = Path("labels.csv")
    """Relative to `root`."""
    image: str = "image"
    """Column of image paths."""
    patient: str | None = None
    """Column of patient ids. Without it every image counts as one patient."""
    split: str | None = None
    """Column of splits. Without it patients are split 60/20/20, stratified by class.

    ``hash`` is no column: patients are split by the hash of their ids and the federation's seed.
    """
    splits: dict[str, Literal["train", "val", "test"]] | None = None
    """Meaning of the split names in the table, such as ``{val: test}``."""
    validation: Literal["stratified", "hash"] = "stratified"
    """How validation patients are chosen if the split column has no validation split."""
    mask: str | None = None
    """Column of lung masks."""
    where: dict[str, str | tuple[str, ...]] = {}
    """Keep only rows whose column has this value, or one of these values."""
    centre: str | None = None
    """Column of centres. Folds are stratified by centre, or leave a centre out."""
    metadata: tuple[str, ...] = ()
    """Columns that the `metadata` arm of a study can use, such as ``[view, age, sex]``."""

    @property
    def split_column(self) -> str | None:
        """Column of splits."""
        return None if self.split == BY_HASH else self.split

    @property
    def by_hash(self) -> bool:
        """Whether splits that the table does not give follow the hash of the patient id."""
        return BY_HASH in (self.split, self.validation)

    @model_validator(mode="after")
    def _one_meaning_of_centre(self) -> Self:
        if "centre" in self.metadata and self.centre not in (None, "centre"):
            raise ValueError(f"metadata: the column centre is not the column {self.centre}")
        return self


class _Published(Dataset):
    """The common keys of the paper's two datasets."""

    root: Path
    """Folder of the tables and the image folders."""
    patient: str | None = None
    """Column of patient ids, if it differs from the default."""
    split_files: Path | None = None
    """Folder of ``train.txt``, ``val.txt`` and ``test.txt``, relative to `root`."""
    split: Literal["hash"] | None = None
    """``hash``: drawn splits follow the hash of the patient id; without it they are stratified."""
    metadata: tuple[str, ...] = ()
    """Columns that the `metadata` arm of a study can use, such as ``[Age, Sex]``."""


@dataset_kinds.register("aiforcovid")
class AIforCOVID(_Published):
    """AIforCOVID (Soda et al. 2021): outcomes at six hospitals, in up to three releases."""

    reader: ClassVar[str] = "mdmt.data.aiforcovid:read_aiforcovid"

    kind: Literal["aiforcovid"]
    tables: dict[Path, Path] = {}
    """Image folder by spreadsheet, relative to `root`. The default is every existing release."""


@dataset_kinds.register("brixia")
class Brixia(_Published):
    """BRIXIA (Signoroni et al. 2021): radiographs with six zone scores each."""

    reader: ClassVar[str] = "mdmt.data.brixia:read_brixia"

    kind: Literal["brixia"]
    table: Path = Path("metadata_global_v2.csv")
    """Relative to `root`."""
    images: Path = Path("dicom_clean")
    """Folder of the images, relative to `root`."""
    structure: Literal["zones", "lungs", "global"] = "zones"
    """Labels: a score of each zone A to F; a level of each lung; one level."""
    test: Literal["patients", "consensus"] = "patients"
    """The test split: `test_fraction` of the patients, or the consensus test set."""
    consensus: Path | None = None
    """Table with scores of five radiologists. Their modes become the labels of the test set."""
    manufacturers: dict[str, str] = {}
    """Centres of manufacturers that the paper does not name, such as ``{PHILIPS: SIEMENS}``."""

    @model_validator(mode="after")
    def _one_source_of_the_test(self) -> Self:
        if self.split_files is not None and self.test == "consensus":
            raise ValueError("test: consensus and split_files exclude each other; keep one of them")
        if self.consensus is not None and self.test != "consensus":
            raise ValueError("consensus: only allowed with test: consensus, whose images it labels")
        return self


@dataset_kinds.register("synthetic")
class Synthetic(Dataset):
    """Drawn chest radiographs, written once as DICOM files to `root`."""

    reader: ClassVar[str] = "mdmt.data.synthetic:read_synthetic"

    kind: Literal["synthetic"]
    root: Path | None = None
    """Folder of the files. The default is a folder in the cache folder."""
    patients: Annotated[int, Field(ge=3)] = 60
    images_per_patient: Annotated[int, Field(ge=1, le=8)] = 2
    size: Annotated[int, Field(ge=32, le=4096)] = 128
    """Side length of the radiographs in pixels."""
    coupling: Annotated[float, Field(ge=0)] = 4.0
    """How strongly the outcome depends on the zone scores. 0: not (the negative control)."""
    noise: Annotated[float, Field(ge=0)] = 0.05
    """Standard deviation of the pixel noise, as a fraction of full scale."""
    seed: Annotated[int, Field(ge=0)] = 0
    test_fraction: Fraction = 0.3


DatasetConfig = Annotated[SerializeAsAny[Dataset], BeforeValidator(by_kind(dataset_kinds))]
"""A dataset in the file of a site. Its ``kind`` names the class."""
