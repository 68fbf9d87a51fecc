"""What server and sites send each other beside arrays: typed, as JSON, and nothing else.

Every field that a site sends is listed here. None can hold a patient id, a path or a pixel.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Annotated, Any, Final, Literal, Protocol

from pydantic import AfterValidator, Field, StringConstraints, TypeAdapter

from mdmt.strict import Strict
from mdmt.tasks import AnyTask

__all__ = [
    "PROTOCOL",
    "EvaluateOrder",
    "EvaluateReport",
    "Histogram",
    "Metrics",
    "Query",
    "Reference",
    "ReferenceOrder",
    "ReferenceReport",
    "Report",
    "SiteCard",
    "TrainOrder",
    "TrainReport",
    "content_bytes",
    "content_values",
    "protocol_of",
]

PROTOCOL: Final = 1
"""Version of these messages. Server and sites must have the same."""
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
"""``task/metric`` → value; None where it is undefined or, by the site's policy, withheld."""
Histogram = dict[Short, dict[Short, Count] | None]
"""Target column → label → count; None where it is withheld."""


class Query(Strict):
    """Server → site at registration."""

    protocol: Literal[1] = PROTOCOL
    recipe: str
    """The federation without its sites (`FederationConfig.recipe`)."""


class SiteCard(Strict):
    """Site → server at registration: who the site is and what it can train."""

    protocol: Literal[1] = PROTOCOL
    name: Short
    federation: Short
    """Hash of the recipe in the query."""
    tasks: dict[Short, AnyTask]
    images: dict[Short, Count | None]
    """Images per split; None where it is withheld."""
    counts: dict[Short, dict[Short, Count | None]]
    """n_{s,t}: labelled outputs per task and split; None where it is withheld, never for 0."""
    histogram: dict[Short, Histogram]
    """Training labels by task."""
    data: Short
    """Fingerprint of the site's preprocessed images and labels (`Cohort.fingerprint`)."""
    device: Short
    versions: dict[Short, Short]

    def labels(self, task: str) -> int | None:
        """n_{s,t} of the training split; None where it is withheld."""
        return self.counts.get(task, {}).get("train", 0)


class TrainOrder(Strict):
    """Server → site in a round: evaluate the model as received, then train it."""

    run: RunId
    round: Annotated[int, Field(ge=1)]
    recipe: str
    coefficients: dict[Short, float]
    """c_{s,t} of the site's tasks."""
    lr_factor: float
    """Factor on the learning rate, from the plateau scheduler."""
    keep: tuple[int, ...]
    """Rounds whose memory the site must keep."""


class TrainReport(Strict):
    """Site → server after a round."""

    site: Short
    round: int
    validation: Metrics
    """Of the model as received, which is that of the round before."""
    losses: dict[Short, Number | None]
    """Mean training loss ℓ_t of each task; None if it saw no label, or where it is withheld."""
    images: Count | None
    steps: Count | None
    """None where they would tell a count that is withheld."""
    seconds: Number
    """The site's own time for the order."""
    new_memory: bool
    """The site kept nothing of an earlier round: its heads have their initial values."""

    @property
    def tasks(self) -> set[str]:
        """Tasks that it names."""
        return _tasks(self.validation, self.losses)


class EvaluateOrder(Strict):
    """Server → site: evaluate a round's model with the memory that belongs to it."""

    run: RunId
    round: Annotated[int, Field(ge=0)]
    recipe: str


class EvaluateReport(Strict):
    """Site → server: metrics on validation and test."""

    site: Short
    round: int
    metrics: dict[Literal["val", "test"], Metrics]

    @property
    def tasks(self) -> set[str]:
        """Tasks that it names."""
        return _tasks(*self.metrics.values())


Reference = Literal["constant", "local"]
"""What a federation is compared with, computed inside the site."""


class ReferenceOrder(Strict):
    """Server → site after the last round: compute the references, from the initial arrays."""

    run: RunId
    round: Annotated[int, Field(ge=0)]
    """Rounds that the site trains alone: as many as it took part in."""
    recipe: str


class ReferenceReport(Strict):
    """Site → server: metrics of each reference on validation and test."""

    site: Short
    round: int
    metrics: dict[Reference, dict[Literal["val", "test"], Metrics]]

    @property
    def tasks(self) -> set[str]:
        """Tasks that it names."""
        return _tasks(*(m for splits in self.metrics.values() for m in splits.values()))


class Report(Protocol):
    """What the reports to orders have in common."""

    site: str
    round: int

    @property
    def tasks(self) -> set[str]:
        """Tasks that it names."""


def protocol_of(text: str) -> int:
    """Protocol of a query or site card, also of one that this version cannot read; 0 if none."""
    try:
        found = json.loads(text)
    except ValueError:
        return 0
    number = found.get("protocol", 0) if isinstance(found, dict) else 0
    return number if isinstance(number, int) else 0


def content_values(content: Any) -> Iterator[tuple[str, Any]]:
    """Yield everything but arrays of a Flower message, as ``record/key`` and value."""
    for records in (content.config_records, content.metric_records):
        for name, values in records.items():
            yield from ((f"{name}/{key}", value) for key, value in values.items())


def content_bytes(content: Any) -> int:
    """Payload of a Flower message in bytes: its arrays as serialised, its texts and numbers."""
    arrays = sum(len(a.data) for record in content.array_records.values() for a in record.values())
    values = (value for _, value in content_values(content))
    return arrays + sum(len(v if isinstance(v, bytes) else str(v).encode()) for v in values)


def _tasks(*named: dict[str, float | int | None]) -> set[str]:
    return {name.partition("/")[0] for names in named for name in names}
