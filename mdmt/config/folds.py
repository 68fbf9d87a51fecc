"""How a study divides its sites' images into training, validation and test: its folds."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from mdmt.config.types import Name
from mdmt.strict import Strict

__all__ = ["FoldsConfig", "KFold", "LeaveCentreOut", "OwnSplits", "SplitFiles"]


class KFold(Strict):
    """Patients dealt to `k` folds, stratified by class and centre; each fold is tested once."""

    kind: Literal["k_fold"] = "k_fold"
    k: Annotated[int, Field(ge=3)] = 5


class LeaveCentreOut(Strict):
    """A test fold per centre of one site, or per pair of centres of two."""

    kind: Literal["leave_centre_out"]
    sites: Annotated[tuple[Name, ...], Field(min_length=1, max_length=2)]
    """Sites whose centres are left out; the others keep the test split of the first of 5 folds."""


class SplitFiles(Strict):
    """Folds that stand in files ``<folder>/<fold>/{train,val,test}.txt``, as the paper's."""

    kind: Literal["files"]
    folders: Annotated[dict[Name, Path], Field(min_length=1)]
    """Folder of each site, relative to its dataset's root, such as ``{afc: folds/5}``."""


class OwnSplits(Strict):
    """One fold: the splits that the sites' datasets come with."""

    kind: Literal["own"]


FoldsConfig = Annotated[
    KFold | LeaveCentreOut | SplitFiles | OwnSplits, Field(discriminator="kind")
]
