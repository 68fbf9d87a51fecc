"""What server and sites tell each other beside arrays: typed, as JSON, and nothing else.

Every field a site sends is listed here. None can hold a patient id, a path or a pixel.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, Field, StringConstraints, TypeAdapter

from mdmt.strict import Strict
from mdmt.tasks import AnyTask

__all__ = [
    "Arm",
    "EvaluateOrder",
    "EvaluateReport",
    "Histogram",
    "Metrics",
    "Query",
    "SiteCard",
    "TrainOrder",
    "TrainReport",
]

Arm = Literal["federated", "local"]
Short = Annotated[str, StringConstraints(max_length=128)]
Count = Annotated[int, Field(ge=0, le=10**9)]
_COUNT = TypeAdapter(Count)
Number = Annotated[float | int, Field(ge=-1e30, le=1e30)]
"""Bounded, so that sums and means over sites stay finite."""
RunId = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{12}$")]
"""Names a folder at every site: nothing that could lead out of it."""
MetricName = Annotated[
    str, StringConstraints(max_length=128, pattern=r"^[^/\s\x00-\x1f\x7f]+/[^/\x00-\x1f\x7f]+$")
]


def _counted(metrics: dict[str, float | int | None]) -> dict[str, float | int | None]:
    for name, value in metrics.items():
        if name.endswith("/examples") and value is not None:
            _COUNT.validate_python(value, strict=True)
    return metrics


Metrics = Annotated[dict[MetricName, Number | None], AfterValidator(_counted)]
"""``task/metric`` → value; None where it is undefined or, by the site's policy, not told."""
Histogram = dict[Short, dict[Short, Count] | None]
"""Target column → label → count; None where it is not told."""


class Query(Strict):
    """Server → site at the roll call."""

    recipe: str
    """The federation without its sites (`FederationConfig.recipe`)."""


class SiteCard(Strict):
    """Site → server at the roll call: who is there and what it can train."""

    name: Short
    federation: Short
    """Hash of the recipe the site was asked about."""
    tasks: dict[Short, AnyTask]
    images: dict[Short, Count | None]
    """Images per split; None where it is not told."""
    counts: dict[Short, dict[Short, Count | None]]
    """n_{s,t}: labelled outputs per task and split; None where it is not told, never for 0."""
    histogram: dict[Short, Histogram]
    """Training labels by task."""
    data: Short
    """Fingerprint of the site's preprocessed images and labels (`Cohort.fingerprint`)."""
    device: Short
    versions: dict[Short, Short]

    def labels(self, task: str) -> int | None:
        """n_{s,t} of the training split; None where it is not told."""
        return self.counts.get(task, {}).get("train", 0)


class TrainOrder(Strict):
    """Server → site in a round: evaluate the backbone as received, then train it."""

    run: RunId
    arm: Arm
    round: Annotated[int, Field(ge=1)]
    recipe: str
    coefficients: dict[Short, float]
    """c_{s,t} of the site's tasks."""
    lr_factor: float
    """What the plateau scheduler has left of the learning rate."""
    keep: tuple[int, ...]
    """Rounds whose heads the site must not forget."""


class TrainReport(Strict):
    """Site → server after a round."""

    site: Short
    round: int
    validation: Metrics
    """Of the backbone as received, that is of the round before."""
    losses: dict[Short, Number | None]
    """Mean training loss ℓ_t of each task; None if it saw no label, or where it is not told."""
    images: Count | None
    steps: Count | None
    """None where a count could be worked out from them that is not told."""
    seconds: Number
    new_heads: bool
    """The site has kept nothing of an earlier round: its heads began as everybody's do."""

    @property
    def tasks(self) -> set[str]:
        """What it tells of."""
        return {name.partition("/")[0] for name in (*self.validation, *self.losses)}


class EvaluateOrder(Strict):
    """Server → site: evaluate a round's backbone with the heads that belong to it."""

    run: RunId
    arm: Arm
    round: Annotated[int, Field(ge=0)]
    recipe: str


class EvaluateReport(Strict):
    """Site → server: metrics on validation and test, and those of the constant predictor."""

    site: Short
    round: int
    metrics: dict[Literal["val", "test"], Metrics]
    constant: dict[Literal["val", "test"], Metrics]

    @property
    def tasks(self) -> set[str]:
        """What it tells of."""
        told = (*self.metrics.values(), *self.constant.values())
        return {name.partition("/")[0] for metrics in told for name in metrics}
