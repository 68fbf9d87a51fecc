"""The messages between server and sites, besides arrays. They are typed and sent as JSON.

This file lists every field that a site sends. No field can contain a patient id, a path or a pixel.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterator
from typing import Annotated, Any, Final, Literal, Protocol, Self, get_args

from pydantic import AfterValidator, Field, StringConstraints, TypeAdapter, model_validator

from mdmt.data.manifest import Split
from mdmt.metrics import is_count
from mdmt.strict import Name, Short, Strict
from mdmt.tasks import AnyTask
from mdmt.untrusted import printable

PROTOCOL: Final = 2
"""Version of these messages. Server and sites must use the same version."""
LONGEST_ORDER: Final = 2**22
"""Largest order in characters: a recipe with a thousand tasks is a tenth of it."""
LONGEST_REPORT: Final = 2**20
"""Largest report or site card in characters. Ten tasks with a hundred metrics each need a
twentieth of it."""
Count = Annotated[int, Field(ge=0, le=10**9)]
_COUNT = TypeAdapter(Count)
Number = Annotated[float | int, Field(ge=-1e30, le=1e30)]
"""Limited, so that sums and means over sites are finite."""
Fraction = Annotated[float, Field(ge=0, le=1)]
Round = Annotated[int, Field(ge=0, le=10**6)]
MOST_TASKS: Final = 1000
Digest = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
"""32 bytes in hexadecimal digits."""
RunId = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{12}$")]
"""The name of a folder at every site. It must not contain a path."""
MetricName = Annotated[
    str,
    StringConstraints(max_length=128, pattern=r"^[^/\s]+/[^/]+$"),
    AfterValidator(printable),
]


def _counted(metrics: dict[str, float | int | None]) -> dict[str, float | int | None]:
    for name, value in metrics.items():
        if is_count(name.partition("/")[2]) and value is not None:
            _COUNT.validate_python(value, strict=True)
    return metrics


def _ascending(rounds: tuple[int, ...]) -> tuple[int, ...]:
    if list(rounds) != sorted(set(rounds)):
        raise ValueError("expected ascending rounds")
    return rounds


Metrics = Annotated[dict[MetricName, Number | None], AfterValidator(_counted)]
"""``task/metric`` → value; None if it is undefined, or withheld by the policy of the site."""
Histogram = dict[Short, dict[Short, Count] | None]
"""Target column → label → count; None if withheld."""
_PACKAGES = 64
"""Largest number of versions in a card."""
Tasks = Annotated[dict[Name, AnyTask], Field(min_length=1, max_length=MOST_TASKS)]


class Query(Strict):
    """Server → site at registration."""

    protocol: Literal[2] = PROTOCOL
    recipe: str
    """What decides the result (`FederationConfig.recipe`)."""


class SiteCard(Strict):
    """Site → server at registration: the identity, tasks and counts of the site."""

    protocol: Literal[2] = PROTOCOL
    name: Name
    federation: Short
    """Hash of the recipe in the query."""
    tasks: Tasks
    images: dict[Split, Count | None]
    """Images per split; None if withheld."""
    counts: dict[Name, dict[Split, Count | None]]
    """n_{s,t}: labelled outputs per task and split; None if withheld. 0 is never withheld."""
    histogram: dict[Name, Histogram]
    """Histogram of training labels by task."""
    data: Short
    """Fingerprint of the site's preprocessed images and labels (`Cohort.fingerprint`)."""
    device: Short
    versions: Annotated[dict[Short, Short], Field(max_length=_PACKAGES)]
    frozen: Digest | None = None
    """SHA-256 of the frozen arrays that the site built; None without (`mdmt.frozen`)."""

    @model_validator(mode="after")
    def _complete(self) -> Self:
        splits = set(get_args(Split))
        if set(self.images) != splits or any(set(c) != splits for c in self.counts.values()):
            raise ValueError(f"expected the splits {sorted(splits)}")
        if set(self.counts) != set(self.tasks) or not set(self.histogram) <= set(self.tasks):
            raise ValueError("expected counts of each task, and of no other")
        return self

    def labels(self, task: str) -> int | None:
        """Return n_{s,t} of the training split; None if withheld."""
        return self.counts.get(task, {}).get("train", 0)


class KeyOrder(Strict):
    """Server → site, once per run with secure aggregation: make a key and sign it."""

    run: RunId
    recipe: str


class KeyStatement(Strict):
    """Site → server, and from there to all other sites: a signed key and the counts of a site."""

    name: Short
    recipe: Digest
    """Hash of the recipe."""
    run: RunId
    counts: dict[Short, Count | None]
    """n_{s,t}: labelled outputs of the training split by task; None if withheld."""
    key: Digest
    """X25519 public key of the run."""
    signer: Annotated[str, StringConstraints(max_length=512)]
    """Public key of the site, ECDSA P-384, as a line of OpenSSH."""
    signature: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{192}$")]
    """ECDSA of the other fields: its two numbers, 48 bytes each."""

    @property
    def tasks(self) -> Collection[str]:
        """The tasks of the site."""
        return self.counts.keys()

    def labels(self, task: str) -> int | None:
        """Return n_{s,t} of the training split; None if withheld."""
        return self.counts.get(task, 0)


class SecureRound(Strict):
    """How the updates of all sites enter the sum of a round. All sites get the same table."""

    statements: dict[Short, KeyStatement]
    """All sites, this one too."""
    weights: dict[Short, dict[Short, Fraction]]
    """Site → part of the model (``backbone`` or ``heads.TASK``) → weight."""
    coefficients: dict[Short, dict[Short, Fraction]]
    """Site → task → c_{s,t}."""
    lr_factor: float
    bound: float
    """B: larger |w·Δ| are clipped."""
    exponent: int
    """k: numbers are sent as multiples of 2^-k."""


class TrainOrder(Strict):
    """Server → site in a round: evaluate the received model, then train it."""

    run: RunId
    round: Annotated[Round, Field(ge=1)]
    recipe: str
    coefficients: Annotated[dict[Short, Fraction], Field(max_length=MOST_TASKS)]
    """c_{s,t} of the site's tasks."""
    lr_factor: Annotated[float, Field(gt=0, le=1)]
    """Factor on the learning rate, from the plateau scheduler."""
    keep: Annotated[tuple[Round, ...], Field(max_length=2 * MOST_TASKS), AfterValidator(_ascending)]
    """Rounds whose memory the site must keep: the best of each task, now and one round ago."""
    frozen: Digest | None = None
    """SHA-256 of the frozen arrays; None without."""
    secure: SecureRound | None = None
    """With secure aggregation: the common table of all sites."""


class TrainReport(Strict):
    """Site → server after a round.

    With secure aggregation it contains no number besides seconds: metrics are in the masked update.
    """

    site: Name
    round: int
    validation: Metrics
    """Metrics of the received model, which is the model of the previous round."""
    losses: dict[Short, Number | None]
    """Mean training loss ℓ_t of each task; None if no label was used, or if withheld."""
    images: Count | None
    steps: Count | None
    """None if they would reveal a withheld count."""
    seconds: Number
    """Time that the site needed for the order."""
    new_memory: bool
    """True if the site has no memory of an earlier round: its heads started from initial values."""

    @property
    def tasks(self) -> set[str]:
        """The tasks in the report."""
        return _tasks(self.validation, self.losses)

    @property
    def evaluated(self) -> Iterator[tuple[Split, Metrics]]:
        """The splits that were evaluated, with their metrics."""
        yield "val", self.validation


class EvaluateOrder(Strict):
    """Server → site: evaluate the model of a round with the site's memory of this round."""

    run: RunId
    round: Round
    recipe: str
    frozen: Digest | None = None
    """SHA-256 of the frozen arrays; None without."""


class EvaluateReport(Strict):
    """Site → server: metrics on validation and test."""

    site: Name
    round: int
    metrics: dict[Literal["val", "test"], Metrics]

    @property
    def tasks(self) -> set[str]:
        """The tasks in the report."""
        return _tasks(*self.metrics.values())

    @property
    def evaluated(self) -> Iterator[tuple[Split, Metrics]]:
        """The splits that were evaluated, with their metrics."""
        yield from self.metrics.items()


Reference = Literal["constant", "probe", "local"]
"""A reference that a federation is compared with. The site computes it."""


class ReferenceOrder(Strict):
    """Server → site after the last round: compute the references from the initial arrays."""

    run: RunId
    round: Round
    """Rounds that the site trains alone: the number of rounds it took part in."""
    recipe: str
    frozen: Digest | None = None
    """SHA-256 of the frozen arrays; None without."""


class ReferenceReport(Strict):
    """Site → server: metrics of each reference on validation and test."""

    site: Name
    round: int
    metrics: dict[Reference, dict[Literal["val", "test"], Metrics]]
    differences: dict[Reference, dict[Round, Metrics]] = {}
    """Reference → evaluated round → the model of this round minus the reference, on test.

    ``task/<primary>``, with ``_low`` and ``_high``: the 95 % interval over patients.
    """

    @property
    def tasks(self) -> set[str]:
        """The tasks in the report."""
        found = [m for splits in self.metrics.values() for m in splits.values()]
        found += [m for rounds in self.differences.values() for m in rounds.values()]
        return _tasks(*found)

    @property
    def evaluated(self) -> Iterator[tuple[Split, Metrics]]:
        """The splits that were evaluated, with their metrics."""
        for splits in self.metrics.values():
            yield from splits.items()


class Report(Protocol):
    """The common fields of all reports."""

    @property
    def site(self) -> str:
        """The name of the site."""

    @property
    def round(self) -> int:
        """The round of the order."""

    @property
    def tasks(self) -> set[str]:
        """The tasks in the report."""

    @property
    def evaluated(self) -> Iterator[tuple[Split, Metrics]]:
        """The splits that were evaluated, with their metrics."""


def protocol_of(text: str) -> int:
    """Return the protocol of a query or site card of any version; 0 if it has none."""
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return 0
    number = found.get("protocol", 0) if isinstance(found, dict) else 0
    return number if isinstance(number, int) else 0


def order_hash(kind: str, order: str, blob: bytes = b"") -> str:
    """Return the SHA-256 that identifies an order.

    Parameters
    ----------
    kind : str
        Type of the message, such as ``train``.
    order : str
        The order as JSON, as it was sent.
    blob : bytes
        Its encoded arrays.
    """
    parts = (kind.encode(), order.encode(), blob)
    return hashlib.sha256(b"".join(hashlib.sha256(p).digest() for p in parts)).hexdigest()


def content_values(content: Any) -> Iterator[tuple[str, Any]]:
    """Yield all values of a Flower message except arrays, as ``record/key`` and value."""
    for records in (content.config_records, content.metric_records):
        for name, values in records.items():
            yield from ((f"{name}/{key}", value) for key, value in values.items())


def content_bytes(content: Any) -> int:
    """Return the bytes of a Flower message: its serialised arrays, its texts and numbers."""
    arrays = sum(len(a.data) for record in content.array_records.values() for a in record.values())
    values = (value for _, value in content_values(content))
    return arrays + sum(len(v if isinstance(v, bytes) else str(v).encode()) for v in values)


def _tasks(*named: dict[str, float | int | None]) -> set[str]:
    return {name.partition("/")[0] for names in named for name in names}
