"""A study's YAML file: which arms, backbones, folds and seeds, of which federation."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, ValidationError, model_validator

from mdmt.config import (
    FederationConfig,
    ModelConfig,
    Synthetic,
    build_config,
    change_config,
    find_config,
    load_federation,
    read_yaml,
)
from mdmt.errors import ConfigError
from mdmt.strict import Name, Positive, Strict
from simulation.study.kinds import (
    Arm,
    AverageInit,
    Backbone,
    Finetune,
    FoldsConfig,
    HashFolds,
    KFold,
    OwnSplits,
)

_FEDERATION = "federation."


class StudyConfig(Strict):
    """A study: the grid of arms, backbones, folds and seeds over one federation."""

    name: Name
    federation: FederationConfig
    """Recipe and sites that all arms share."""
    target: Name
    """The task that every arm must test, and that arms of two stages end with."""
    targets: tuple[Name, ...] = ()
    """The tasks of the gains: by default only `target`."""
    comparators: tuple[Name, ...] = ()
    """Arms, such as ``[local, probe]``, over which the gains of the other arms are computed."""
    margins: dict[Name, Positive] = {}
    """Task → loss of its primary metric below which an arm counts as not worse."""
    arms: Annotated[tuple[Arm, ...], Field(min_length=1)]
    backbones: tuple[Backbone, ...] = ()
    """The federation's own unless given."""
    folds: FoldsConfig = OwnSplits(kind="own")
    development: tuple[Annotated[int, Field(ge=0)], ...] = ()
    """Folds, from 0, on which the federated arm and each target's comparator are chosen.

    Only these arms then run on the other folds, which are the result of the study.
    """
    train_fraction: tuple[Annotated[float, Field(gt=0, le=1)], ...] = (1.0,)
    """The grid is repeated with these fractions of the patients that train and validate."""
    shuffle: Name | None = None
    """A negative control: this task's labels are permuted among patients that are not tested."""
    seeds: Annotated[tuple[Annotated[int, Field(ge=0)], ...], Field(min_length=1)] = (0,)
    """Of initial weights, order of images and augmentation."""
    checkpoint: Literal["last", "best"] = "last"
    """The round that is tested: the last, or each task's best by validation."""
    redraw: bool = False
    """Draw new patients of synthetic sites for each seed, so that cells are independent."""

    @property
    def grid_backbones(self) -> tuple[Backbone, ...]:
        """Backbones of the grid."""
        return self.backbones or (Backbone(backbone=self.federation.model.backbone),)

    def recipe(self, arm: Arm) -> FederationConfig:
        """The federation with the changes of an arm.

        Raises
        ------
        ConfigError
            A change is not possible; the message names its key.
        """
        changes = getattr(arm, "set", ())
        return change_config(self.federation, changes) if changes else self.federation

    def model(self, arm: Arm, backbone: Backbone) -> ModelConfig:
        """The model of an arm with this backbone.

        Raises
        ------
        ValueError
            The backbone cannot have these weights.
        """
        changes = backbone.model_dump(include={"backbone", "weights"}, exclude_none=True)
        try:
            return ModelConfig.model_validate(self.recipe(arm).model.model_dump() | changes)
        except ValidationError as error:
            problem = error.errors()[0]["msg"].removeprefix("Value error, ")
            raise ValueError(f"backbones: {backbone.label}: {problem}") from error

    def source(self, arm: Finetune | AverageInit) -> str:
        """The task that `arm` learns first."""
        others = [task for task in self.federation.tasks if task != self.target]
        return arm.source or others[0]

    def target_sites(self) -> list[str]:
        """Sites that have the target, sorted."""
        return sorted(s.name for s in self.federation.sites.values() if self.target in s.tasks)

    @model_validator(mode="after")
    def _recipes(self) -> Self:
        _check_steps(self.federation, "federation.")
        fixed = _fixed(self.federation)
        for arm in self.arms:
            try:
                own = self.recipe(arm)
            except ConfigError as error:
                raise ValueError(f"arms.{arm.label}.set: {error}") from error
            for key, value in _fixed(own).items():
                if value != fixed[key]:
                    raise ValueError(f"arms.{arm.label}.set: {key}: all arms of a study share it")
            _check_steps(own, f"arms.{arm.label}.set: ")
            if isinstance(arm, AverageInit) and own.training.rounds < 2:
                raise ValueError(f"arms.{arm.label}: its two stages need training.rounds of 2")
        return self

    @model_validator(mode="after")
    def _a_grid(self) -> Self:
        for key, labels in (
            ("arms", [arm.label for arm in self.arms]),
            ("backbones", [backbone.label for backbone in self.grid_backbones]),
            ("seeds", [str(seed) for seed in self.seeds]),
        ):
            for label in labels:
                if labels.count(label) > 1:
                    raise ValueError(f"{key}: {label} is given twice; give each its own name")
        for backbone in self.grid_backbones:
            self.model(self.arms[0], backbone)
        return self

    @model_validator(mode="after")
    def _comparable(self) -> Self:
        federation = self.federation
        if self.target not in federation.tasks:
            raise ValueError(f"target: {self.target} is none of {', '.join(federation.tasks)}")
        if not self.target_sites():
            raise ValueError(f"target: no site of the federation has the task {self.target}")
        for task in self.targets:
            if not any(task in site.tasks for site in federation.sites.values()):
                raise ValueError(f"targets: no site of the federation has the task {task}")
        if self.targets and self.target not in self.targets:
            raise ValueError(f"targets: expected {self.target}, the target, among them")
        for task in self.margins:
            if task not in (self.targets or (self.target,)):
                raise ValueError(f"margins: {task} is no target")
        labels = [arm.label for arm in self.arms]
        for arm in self.comparators:
            if arm not in labels:
                raise ValueError(f"comparators: no arm {arm}; the arms are {', '.join(labels)}")
        if self.development:
            self._check_development()
        if 1 not in self.train_fraction:
            raise ValueError("train_fraction: expected 1 among them: the study itself")
        if self.shuffle is not None and self.shuffle not in federation.tasks:
            raise ValueError(f"shuffle: {self.shuffle} is none of {', '.join(federation.tasks)}")
        if self.redraw and not all(
            isinstance(site.dataset, Synthetic) for site in federation.sites.values()
        ):
            raise ValueError("redraw: only sites with dataset.kind synthetic can be drawn anew")
        return self

    def _check_development(self) -> None:
        """Refuse a protocol that cannot choose, or could choose what it tests."""
        kind = self.folds.kind
        if not isinstance(self.folds, KFold | HashFolds):
            raise ValueError(f"development: needs folds of kind k_fold or hash, not {kind}")
        if not set(self.development) < set(range(self.folds.k)):
            raise ValueError(f"development: expected some of the folds 0 to {self.folds.k - 1}")
        if not self.comparators or not any(arm.kind == "federated" for arm in self.arms):
            raise ValueError("development: needs comparators, and federated arms to choose from")
        if len(self.grid_backbones) > 1:
            raise ValueError("development: needs one backbone")
        if self.train_fraction != (1.0,):
            raise ValueError("development: train_fraction belongs into a study of its own")

    @model_validator(mode="after")
    def _two_stages(self) -> Self:
        tasks = {task for site in self.federation.sites.values() for task in site.tasks}
        others = tasks - {self.target}
        for arm in self.arms:
            if not isinstance(arm, Finetune | AverageInit):
                continue
            if arm.source is None and len(others) != 1:
                raise ValueError(f"arms.{arm.label}.source: name one of {', '.join(others)}")
            if arm.source is not None and arm.source not in others:
                raise ValueError(f"arms.{arm.label}.source: no other task {arm.source} at a site")
        return self


def _check_steps(recipe: FederationConfig, where: str) -> None:
    """Refuse a recipe with which the number of optimiser steps depends on the kind of arm."""
    if recipe.training.local_steps is None:
        raise ValueError(
            f"{where}training.local_steps: a study needs it, so that every arm makes"
            " equally many optimiser steps; see docs/paper.md"
        )
    if recipe.aggregation.fraction < 1:
        raise ValueError(f"{where}aggregation.fraction: must be 1, or steps differ by arm")


def _fixed(recipe: FederationConfig) -> dict[str, Any]:
    """What an arm cannot change, by key: arms would have other data, or nothing in common."""
    keys = ("name", "seed", "sites", "references")
    return {key: getattr(recipe, key) for key in keys} | {
        "model.backbone": recipe.model.backbone,
        "model.weights": recipe.model.weights,
        "tasks": {name: task.space for name, task in recipe.tasks.items()},
    }


def load_study(path: Path, overrides: Sequence[str] = ()) -> StudyConfig:
    """Read a study's YAML file.

    Parameters
    ----------
    path : Path
    overrides : sequence of str
        ``seeds=[0, 1]``; ``federation.training.rounds=5`` reaches into the federation, whether it
        stands in the file or is named there. So does every entry of the file's own ``set``.

    Raises
    ------
    ConfigError
        One line: file, key, value, what was expected.
    """
    data = read_yaml(path, [o for o in overrides if not o.startswith(_FEDERATION)])
    federation = data.get("federation")
    own = data.pop("set", [])
    if not isinstance(own, list) or not all(isinstance(entry, str) for entry in own):
        raise ConfigError(f"{path}: set: expected a list such as [training.rounds=5]")
    if isinstance(federation, str):
        given = [o.removeprefix(_FEDERATION) for o in overrides if o.startswith(_FEDERATION)]
        beside = path.parent / federation
        file = beside if beside.is_file() else find_config(federation)
        data["federation"] = load_federation(file, [*own, *given])
    else:
        data = read_yaml(path, [*(f"{_FEDERATION}{entry}" for entry in own), *overrides])
        data.pop("set", None)
    return build_config(StudyConfig, data, path)
