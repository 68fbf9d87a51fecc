"""The parts of a study's grid: kinds of arms, backbones and folds."""

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from mdmt.strict import Name, Probability, Strict


class _Arm(Strict):
    """Keys of all arms."""

    kind: str
    name: Name | None = None
    """Name in tables; by default the kind. Two arms of one kind need names."""

    @property
    def label(self) -> str:
        """Name in tables."""
        return self.name or self.kind


class Constant(_Arm):
    """The best constant prediction from a site's training labels."""

    kind: Literal["constant"]


class Metadata(_Arm):
    """A linear model of columns of a site's table, without the image; it shows shortcuts."""

    kind: Literal["metadata"]
    columns: Annotated[tuple[str, ...], Field(min_length=1)]
    """Such as ``[view, age, sex]``; `dataset.metadata` of every target site must name each."""


class Trained(_Arm):
    """An arm that trains, by the recipe of the federation with its own changes."""

    set: tuple[str, ...] = ()
    """Changes to the recipe for this arm, such as ``[algorithm=fedprox, training.rounds=10]``."""


class Plain(Trained):
    """A trained arm without other keys.

    ``local`` is each site alone with its own task, ``probe`` linear heads of each site on the
    initial backbone, which is not trained, and ``pooled`` all tasks on the pooled data of all
    sites: the paper's MDMT.
    """

    kind: Literal["probe", "local", "pooled"]


class _FromSource(Trained):
    source: Name | None = None
    """Task that is trained first; by default the federation's only other task."""


class Finetune(_FromSource):
    """First the source task, then each target site alone from this backbone."""

    kind: Literal["finetune"]


class AverageInit(_FromSource):
    """Training from β times the target's single-task backbone plus 1 - β times the source's."""

    kind: Literal["average_init"]
    beta: Probability = 0.5
    then: Literal["local", "pooled"] = "local"
    """The second stage: each target site alone, or all tasks on pooled data."""


class Federated(Trained):
    """All tasks at their sites, through the real server and client."""

    kind: Literal["federated"]


def _of_kind(value: Any) -> Any:
    """Convert ``local`` to ``{kind: local}``."""
    return {"kind": value} if isinstance(value, str) else value


Arm = Annotated[
    Annotated[
        Constant | Metadata | Plain | Finetune | AverageInit | Federated,
        Field(discriminator="kind"),
    ],
    BeforeValidator(_of_kind),
]


class Backbone(Strict):
    """A backbone of the grid."""

    backbone: str
    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$")] | None = None
    """Name in tables; by default that of the backbone."""
    weights: str | None = None
    """Replaces the federation's `model.weights`."""

    @model_validator(mode="before")
    @classmethod
    def _by_name(cls, value: Any) -> Any:
        """Convert ``resnet18`` to ``{backbone: resnet18}``."""
        return {"backbone": value} if isinstance(value, str) else value

    @property
    def label(self) -> str:
        """Name in tables."""
        return self.name or self.backbone


class KFold(Strict):
    """Patients are dealt to `k` folds, stratified by class and centre; each fold is tested once."""

    kind: Literal["k_fold"] = "k_fold"
    k: Annotated[int, Field(ge=3)] = 5


class HashFolds(Strict):
    """The SHA-256 of its id decides the fold of a patient, so nobody can choose it."""

    kind: Literal["hash"]
    k: Annotated[int, Field(ge=2)] = 3
    val_fraction: Annotated[float, Field(gt=0, lt=1)] = 0.2
    """Expected fraction of the patients that are not tested, for validation."""


class LeaveCentreOut(Strict):
    """A test fold per centre of one site, or per pair of centres of two."""

    kind: Literal["leave_centre_out"]
    sites: Annotated[tuple[Name, ...], Field(min_length=1, max_length=2)]
    """Sites whose centres are left out; the others keep the test split of the first of 5 folds."""


class SplitFiles(Strict):
    """Folds in files ``<folder>/<fold>/{train,val,test}.txt``, as those of the paper."""

    kind: Literal["files"]
    folders: Annotated[dict[Name, Path], Field(min_length=1)]
    """Folder of each site, relative to its dataset's root, such as ``{afc: folds/5}``."""


class OwnSplits(Strict):
    """One fold, with the splits of the sites' datasets."""

    kind: Literal["own"]


FoldsConfig = Annotated[
    KFold | HashFolds | LeaveCentreOut | SplitFiles | OwnSplits, Field(discriminator="kind")
]
