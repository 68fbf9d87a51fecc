"""The hospital's own file: its dataset, its labels, its machine. It is never sent."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from mdmt.config.types import BesideSpace, Name
from mdmt.strict import Strict

__all__ = ["DatasetConfig", "SiteConfig", "SiteTask", "Synthetic", "Table"]


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
    val_fraction: Annotated[float, Field(ge=0, lt=1)] = 0.2
    """Share of patients carved for validation (from train) where the table has none."""
    test_fraction: Annotated[float, Field(ge=0, lt=1)] = 0.2
    """Share of patients kept for the test where the table has no split column."""
    on_bad_image: Literal["error", "skip"] = "error"


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


DatasetConfig = Annotated[Table | Synthetic, Field(discriminator="kind")]


class SiteTask(BesideSpace):
    """Where a site's table holds the labels of one task, and what they mean."""

    columns: tuple[str, ...] = ()
    """The table's columns, in the order of the task's outputs; the labels' own names if absent."""
    values: dict[str, str] = {}
    """What cells mean, such as ``{1: SEVERE, 0: MILD}``; an empty meaning is a missing label."""

    @field_validator("columns", mode="before")
    @classmethod
    def _one_column(cls, value: Any) -> Any:
        """Let ``outcome`` stand for ``[outcome]``."""
        return (value,) if isinstance(value, str) else value

    @field_validator("values", mode="before")
    @classmethod
    def _texts(cls, value: Any) -> Any:
        """Read cells and labels as text, however YAML read them."""
        if not isinstance(value, dict):
            return value
        return {_text(cell): _text(label) for cell, label in value.items()}


def _text(value: Any) -> Any:
    """Turn 1 into ``"1"`` and nothing into ``""``; YAML's yes and no have lost their text."""
    if isinstance(value, bool):
        raise ValueError("values: put yes, no, on, off, true and false in quotes")
    return "" if value is None else str(value)


class SiteConfig(Strict):
    """One site."""

    name: Name
    dataset: DatasetConfig
    tasks: Annotated[dict[str, SiteTask], Field(min_length=1)]
    device: Annotated[str, Field(pattern=r"^(auto|cpu|cuda(:\d+)?)$")] = "auto"
    threads: Annotated[int, Field(gt=0)] | None = None
    """CPU threads; the federation's `training.threads` unless given."""
    workers: Annotated[int, Field(ge=0)] = 2
    """Parallel decoders while the image cache is filled."""
    cache_dir: Path | None = None
    """Preprocessed images; ``~/.cache/mdmt`` unless given."""
    state_dir: Path | None = None
    """The site's heads between rounds; ``~/.local/state/mdmt/<name>`` unless given."""

    @property
    def state_root(self) -> Path:
        """Where the site keeps its state, its log and its audit log."""
        return self.state_dir or Path(f"~/.local/state/mdmt/{self.name}").expanduser()
