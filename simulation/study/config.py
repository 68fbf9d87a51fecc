"""A study's YAML file: which arms, backbones, folds and seeds, of which federation."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, ValidationError, model_validator

from mdmt.config import (
    FederationConfig,
    ModelConfig,
    Synthetic,
    build_config,
    find_config,
    load_federation,
    read_yaml,
)
from mdmt.errors import ConfigError
from mdmt.strict import Name, Strict
from simulation.study.kinds import Arm, AverageInit, Backbone, Finetune, FoldsConfig, OwnSplits

_FEDERATION = "federation."


class StudyConfig(Strict):
    """A study: the grid of arms, backbones, folds and seeds over one federation."""

    name: Name
    federation: FederationConfig
    """Recipe and sites that all arms share."""
    target: Name
    """The task that arms are compared on."""
    arms: Annotated[tuple[Arm, ...], Field(min_length=1)]
    backbones: tuple[Backbone, ...] = ()
    """The federation's own unless given."""
    folds: FoldsConfig = OwnSplits(kind="own")
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

    def model(self, backbone: Backbone) -> ModelConfig:
        """The federation's model with this backbone.

        Raises
        ------
        ValueError
            The backbone cannot have these weights.
        """
        changes = backbone.model_dump(include={"backbone", "weights"}, exclude_none=True)
        try:
            return ModelConfig.model_validate(self.federation.model.model_dump() | changes)
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
            self.model(backbone)
        return self

    @model_validator(mode="after")
    def _comparable(self) -> Self:
        federation = self.federation
        if self.target not in federation.tasks:
            raise ValueError(f"target: {self.target} is none of {', '.join(federation.tasks)}")
        if not self.target_sites():
            raise ValueError(f"target: no site of the federation has the task {self.target}")
        if federation.training.local_steps is None:
            raise ValueError(
                "federation.training.local_steps: a study needs it, so that every arm makes"
                " equally many optimiser steps; see docs/paper.md"
            )
        if federation.aggregation.fraction < 1:
            raise ValueError("federation.aggregation.fraction: must be 1, or steps differ by arm")
        if self.redraw and not all(
            isinstance(site.dataset, Synthetic) for site in federation.sites.values()
        ):
            raise ValueError("redraw: only sites with dataset.kind synthetic can be drawn anew")
        return self

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
            if isinstance(arm, AverageInit) and self.federation.training.rounds < 2:
                raise ValueError(f"arms.{arm.label}: its two stages need training.rounds of 2")
        return self


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
