"""What a study's grid is made of: kinds of arms, backbones and folds."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from mdmt.config import AggregationConfig
from mdmt.config.types import Name, Probability
from mdmt.strict import Strict

__all__ = [
    "Arm",
    "AverageInit",
    "Backbone",
    "Federated",
    "Finetune",
    "FoldsConfig",
    "KFold",
    "LeaveCentreOut",
    "Metadata",
    "OwnSplits",
    "SplitFiles",
]


class _Arm(Strict):
    """What all arms have."""

    kind: str
    name: Name | None = None
    """In tables; the kind unless given. Two arms of one kind need it."""

    @property
    def label(self) -> str:
        """Name in tables."""
        return self.name or self.kind


class Constant(_Arm):
    """The best constant of a site's training labels."""

    kind: Literal["constant"]


class Metadata(_Arm):
    """A linear model of columns of a site's table, and no image: the shortcut row."""

    kind: Literal["metadata"]
    columns: Annotated[tuple[str, ...], Field(min_length=1)]
    """Such as ``[view, age, sex]``; each stands in `dataset.metadata` of every target site."""


class Local(_Arm):
    """Each site alone with its own task."""

    kind: Literal["local"]


class _FromSource(_Arm):
    source: Name | None = None
    """Task learned first; the federation's only other task unless given."""


class Finetune(_FromSource):
    """The source task first, then each target site alone from that backbone."""

    kind: Literal["finetune"]


class AverageInit(_FromSource):
    """From the average of two single-task backbones: β of the target's, 1 - β of the source's."""

    kind: Literal["average_init"]
    beta: Probability = 0.5
    then: Literal["local", "pooled"] = "local"
    """What starts from it: each target site alone, or all tasks on pooled data."""


class Pooled(_Arm):
    """All tasks on the pooled data of all sites: the paper's MDMT."""

    kind: Literal["pooled"]


class Federated(_Arm):
    """All tasks at their sites, through the real server and client."""

    kind: Literal["federated"]
    aggregation: AggregationConfig | None = None
    """The federation's unless given."""


def _of_kind(value: Any) -> Any:
    """Let ``local`` stand for ``{kind: local}``."""
    return {"kind": value} if isinstance(value, str) else value


Arm = Annotated[
    Annotated[
        Constant | Metadata | Local | Finetune | AverageInit | Pooled | Federated,
        Field(discriminator="kind"),
    ],
    BeforeValidator(_of_kind),
]


class Backbone(Strict):
    """A backbone of the grid."""

    backbone: str
    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$")] | None = None
    """In tables; the backbone's own name unless given."""
    weights: str | None = None
    """As the federation's `model.weights`, which it replaces."""

    @model_validator(mode="before")
    @classmethod
    def _by_name(cls, value: Any) -> Any:
        """Let ``resnet18`` stand for ``{backbone: resnet18}``."""
        return {"backbone": value} if isinstance(value, str) else value

    @property
    def label(self) -> str:
        """Name in tables."""
        return self.name or self.backbone


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
