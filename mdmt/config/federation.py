"""The coordinator's file: model, tasks, preprocessing, training and aggregation."""

import hashlib
import json
from typing import Annotated, Any, Literal, Self

import numpy as np
from pydantic import AfterValidator, BeforeValidator, Field, ValidationInfo, model_validator

from mdmt.algorithms import AnyAlgorithm, FedAvg
from mdmt.config.model import ModelConfig, content_name
from mdmt.config.privacy import PrivacyConfig, dp_conflicts, secure_conflicts
from mdmt.config.renamed import SAVED
from mdmt.config.site import BesideSpace, SiteConfig
from mdmt.config.training import AggregationConfig, ReleaseConfig, TrainingConfig, WireConfig
from mdmt.plugins import Plugin, installed_plugins
from mdmt.strict import Name, NonNegative, Positive, Probability, Short, Strict, increasing
from mdmt.tasks import Task


class HeadConfig(Strict):
    """Layers between pooled features and outputs. Without a hidden layer the head is linear."""

    hidden: tuple[Annotated[int, Field(gt=0)], ...] = ()
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0


def _head(value: Any) -> Any:
    """Convert the names ``linear`` and ``mlp`` (of the paper: 128, 32, dropout .5)."""
    names = {"linear": {}, "mlp": {"hidden": (128, 32), "dropout": 0.5}}
    if isinstance(value, str) and value not in names:
        raise ValueError("expected linear, mlp or {hidden: [128, 32], dropout: 0.5}")
    return names[value] if isinstance(value, str) else value


class TaskConfig(BesideSpace):
    """One task of the federation: its label space, its weight λ and its head."""

    title: Short = ""
    """How reports call the task. The default is its name."""
    weight: Positive = 1.0
    """λ of the task."""
    head: Annotated[HeadConfig, BeforeValidator(_head)] = HeadConfig()
    class_weights: Literal["none", "balanced"] = "none"
    """``balanced`` gives every class of a site the same total weight."""

    @model_validator(mode="after")
    def _weights_need_classes(self) -> Self:
        nothing = np.empty((0, self.space.width))
        if self.class_weights != "none" and self.space.balanced_weights(nothing) is None:
            reason = f"{self.space.kind} has no classes to balance; use none"
            raise ValueError(f"class_weights: {reason}")
        return self


Percent = Annotated[float, Field(ge=0, le=100)]


class PreprocessingConfig(Strict):
    """How a radiograph becomes a square image of `model.image_size` in the cache."""

    clip: Annotated[tuple[Percent, Percent], AfterValidator(increasing)] = (2.0, 98.0)
    """Percentiles that become black and white."""
    keep_aspect: bool = True
    """Pad the image to a square. False stretches it."""
    lung_box: bool = False
    """Crop to a square around the lungs, with a margin of 5 %. Every image then needs a mask."""
    voi: bool = False
    """Apply the VOI LUT or window of a DICOM file before clipping."""
    mean: tuple[float, ...] = (0.5,)
    std: tuple[Positive, ...] = (0.5,)
    """Standard deviation of the image in [0, 1]: one value, or one per channel."""


class AugmentationConfig(Strict):
    """Random changes of training images. An image gets each change with probability `p`."""

    p: Probability = 0.5
    shift: Annotated[float, Field(ge=0, lt=1)] = 0.1
    """Largest shift, as a fraction of the side."""
    zoom: Annotated[float, Field(ge=0, lt=1)] = 0.1
    """The scale is drawn from [1 - zoom, 1 + zoom]."""
    rotation: Annotated[float, Field(ge=0, le=180)] = 10.0
    """Largest angle, in degrees."""
    flip: bool = False
    """Horizontal flip. Every task with several outputs then needs a `mirror`."""
    elastic: tuple[NonNegative, NonNegative] | None = None
    """Range of the displacement α of the elastic deformation, in pixels."""
    elastic_sigma: Positive = 7.0

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.elastic and self.elastic[0] > self.elastic[1]:
            raise ValueError(f"elastic: expected [low, high], not {list(self.elastic)}")
        return self

    @property
    def active(self) -> bool:
        """True if any image can change."""
        return self.p > 0 and any((self.shift, self.zoom, self.rotation, self.flip, self.elastic))


class FederationConfig(Strict):
    """A whole federation. `sites` is for simulations only and is never sent."""

    name: Name
    seed: Annotated[int, Field(ge=0)] = 0
    model: ModelConfig
    tasks: Annotated[dict[Name, TaskConfig], Field(min_length=1)]
    preprocessing: PreprocessingConfig = PreprocessingConfig()
    augmentation: AugmentationConfig = AugmentationConfig()
    training: TrainingConfig
    algorithm: AnyAlgorithm = FedAvg()
    aggregation: AggregationConfig = AggregationConfig()
    privacy: PrivacyConfig = PrivacyConfig()
    wire: WireConfig = WireConfig()
    references: tuple[Literal["constant", "probe", "local"], ...] = ()
    """References that the federation is compared with."""
    release: ReleaseConfig = ReleaseConfig()
    sites: dict[Name, SiteConfig] = {}

    @model_validator(mode="before")
    @classmethod
    def _complete_sites(cls, value: Any) -> Any:
        """Add the name and missing label spaces to the sites of a simulation."""
        match value:
            case {"sites": dict(sites), "tasks": dict(tasks)}:
                spaces = {name: _space(task) for name, task in tasks.items()}
                sites = {name: _complete(name, site, spaces) for name, site in sites.items()}
                return value | {"sites": sites}
        return value

    @model_validator(mode="after")
    def _consistent(self, info: ValidationInfo) -> Self:
        channels = {1, self.model.in_channels}
        for key in ("mean", "std"):
            if len(getattr(self.preprocessing, key)) not in channels:
                raise ValueError(f"preprocessing.{key}: expected one value or one per channel")
        for name, site in self.sites.items():
            if site.name != name:
                raise ValueError(f"sites.{name}.name: expected {name}, not {site.name}")
        if self.model.trainable == "norms" and self.aggregation.norm_layers == "frozen":
            raise ValueError(
                "model.trainable: norms trains what aggregation.norm_layers: frozen freezes; use"
                " model.trainable: none, or other norm_layers"
            )
        plateau = self.training.scheduler.name == "plateau"
        if plateau and self.aggregation.fraction < 1 and info.context != SAVED:
            raise ValueError(
                "training.scheduler: plateau compares the validation loss of all sites, round by"
                " round, and needs aggregation.fraction 1"
            )
        if self.augmentation.flip:
            for name, task in self.tasks.items():
                if task.space.mirror_permutation() is None:
                    raise ValueError(
                        f"augmentation.flip: task {name} has several outputs and no mirror: add"
                        f" tasks.{name}.mirror, such as {{A: D}}, or {{}} if a flip changes none"
                    )
        if self.training.refit_heads and self.aggregation.heads == "shared":
            raise ValueError(
                "training.refit_heads: a shared head is the same at all sites, and a refitted head"
                " is not; use false, or aggregation.heads: local"
            )
        for conflict in self.algorithm.conflicts(self):
            raise ValueError(f"with algorithm {self.algorithm.name} {conflict}")
        for conflict in dp_conflicts(self):
            raise ValueError(f"with privacy.dp {conflict}")
        for conflict in secure_conflicts(self):
            raise ValueError(f"with privacy.secure_aggregation {conflict}")
        return self

    def space(self, task: str) -> Task:
        """Return the label space of `task`."""
        return self.tasks[task].space

    @property
    def plugins(self) -> dict[str, Plugin]:
        """The installed packages that define a task kind, the backbone or the algorithm."""
        return installed_plugins(
            *(("mdmt.tasks", task.space.kind) for task in self.tasks.values()),
            ("mdmt.backbones", self.model.backbone.partition(".")[0]),
            ("mdmt.algorithms", self.algorithm.name),
        )

    @property
    def recipe(self) -> str:
        """The keys that decide the result, as canonical JSON. Sites get and approve this text.

        It has no `sites`, and no timeouts or numbers of sites to wait for: a stopped run can be
        resumed with other values of these keys. It has no paths: the SHA-256 of its content names a
        file of weights. It pins the version and the code of plug-ins.
        """
        patience = {"join_timeout", "min_sites", "on_missing"}
        omitted: Any = {"sites": True, "training": {"round_timeout"}, "aggregation": patience}
        deciding = self.model_dump(mode="json", exclude=omitted)
        deciding["model"]["weights"] = content_name(self.model.weights)
        if plugins := self.plugins:
            deciding["plugins"] = {name: p.model_dump() for name, p in plugins.items()}
        return json.dumps(deciding, sort_keys=True)

    @property
    def hash(self) -> str:
        """SHA-256 of the recipe."""
        return hashlib.sha256(self.recipe.encode()).hexdigest()


def _space(task: Any) -> dict[str, Any]:
    own = set(TaskConfig.model_fields) - {"space"}
    return {k: v for k, v in task.items() if k not in own} if isinstance(task, dict) else {}


def _complete(name: str, site: Any, spaces: dict[str, Any]) -> Any:
    if not isinstance(site, dict) or not isinstance(site.get("tasks"), dict):
        return site
    tasks = {}
    for task, entry in site["tasks"].items():
        own = {} if entry is None else entry
        bare = isinstance(own, dict) and "kind" not in own and "space" not in own
        tasks[task] = spaces[task] | own if bare and task in spaces else entry
    return {"name": name} | site | {"tasks": tasks}
