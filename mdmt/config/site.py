"""The hospital's own file: its dataset, its labels and its machine. It is never sent."""

from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import BeforeValidator, Field, model_validator

from mdmt.config.datasets import DatasetConfig
from mdmt.errors import ConfigError
from mdmt.nearest import nearest
from mdmt.strict import Name, Positive, Strict, check_keys
from mdmt.tasks import AnyTask, task_kinds

Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Fingerprint = Annotated[str, Field(pattern=r"^SHA256:[A-Za-z0-9+/]{43}$")]
"""SHA-256 of a public key, as ``ssh-keygen -lf`` prints it."""
Limit = Annotated[int, Field(gt=0)]
Count = Annotated[int, Field(ge=0)]


class BesideSpace(Strict):
    """A section of YAML that has the keys of a label space and other keys."""

    space: AnyTask

    @model_validator(mode="before")
    @classmethod
    def _flat(cls, value: Any) -> Any:
        """Separate the keys of the label space from the other keys."""
        if not isinstance(value, dict) or "space" in value:
            return value
        with suppress(ConfigError):  # an unknown kind is reported by the field `space`
            known = task_kinds[str(value.get("kind"))].model_fields
            check_keys(value, (*cls.model_fields, *known))
        own = {key: value[key] for key in value if key in cls.model_fields}
        return own | {"space": {key: value[key] for key in value if key not in own}}


def _text(value: Any) -> Any:
    """Convert 1 to ``"1"`` and null to ``""``. Refuse yes and no: YAML has lost their text."""
    if isinstance(value, bool):
        raise ValueError("put yes, no, on, off, true and false in quotes")
    return "" if value is None else str(value)


Text = Annotated[str, BeforeValidator(_text)]


def _several(value: Any) -> Any:
    """Convert ``outcome`` to ``(outcome,)``."""
    return (value,) if isinstance(value, str) else value


class SiteTask(BesideSpace):
    """The columns of the table with the labels of a task, and the meaning of their cells."""

    columns: Annotated[tuple[str, ...], BeforeValidator(_several)] = ()
    """Columns in the order of the task's outputs. The default is the names of the labels."""
    values: dict[Text, Text] = {}
    """Meaning of cells, such as ``{1: SEVERE, 0: MILD}``. An empty meaning is a missing label."""
    separator: Annotated[str, Field(min_length=1)] | None = None
    """Text between the findings that one column lists, such as ``|``. Then `columns` names it.

    A finding that the cell does not list is absent. Entries with an empty meaning are ignored.
    """

    @model_validator(mode="after")
    def _meanings_are_labels(self) -> Self:
        for text, meaning in self.values.items():
            if meaning and (problem := self._no_label(meaning)):
                hint = nearest(meaning, self.space.labels)
                raise ValueError(f"values.{text}: {meaning!r} is no label: {problem}{hint}")
        return self

    def _no_label(self, meaning: str) -> str | None:
        """Return why no column can contain a label; None if one can."""
        if self.separator is not None:
            listed = ", ".join(self.space.columns)
            return None if meaning in self.space.columns else f"expected one of {listed}"
        problem = None
        for column in self.space.columns:
            try:
                self.space.encode(column, meaning)
            except ValueError as error:
                problem = str(error)
            else:
                return None
        return problem


class Policy(Strict):
    """What a site allows, independently of the server. A limit that is not set does not apply."""

    recipes: tuple[Sha256, ...] | None = None
    """SHA-256 of the recipes that a person approved (`mdmt site approve`).

    The default is none at a deployed site, and any in a simulation.
    """
    federations: Annotated[tuple[Name, ...], Field(min_length=1)] | None = None
    """Names of the federations that the site takes part in. The default is any."""
    tasks: Annotated[tuple[Name, ...], Field(min_length=1)] | None = None
    """Tasks that the site offers. The default is all of its `tasks`."""
    backbones: Annotated[tuple[str, ...], Field(min_length=1)] | None = None
    """Backbones that the site trains. The default is any."""
    apps: tuple[Sha256, ...] = ()
    """SHA-256 of the app bundles that a deployed site answers. The default is none."""
    plugins: tuple[str, ...] | None = None
    """Installed packages whose task kinds, backbones and algorithms a federation may use.

    The default is none at a deployed site, and any in a simulation.
    """
    max_rounds: Limit | None = None
    """Largest number of rounds of a federation."""
    max_local_epochs: Positive | None = None
    """Largest number of passes over the training images per round, also for `local_steps`."""
    min_examples: Count = 0
    """Smallest number of labelled training images of a task. With fewer the site refuses."""
    min_examples_per_metric: Count = 0
    """Smallest number of labelled images behind a reported metric, loss, count or cell."""
    report_counts: bool = True
    """Report the numbers of images and labels. Without them the weights must be uniform."""
    report_histogram: bool = True
    """Report how often each label occurs in the training split."""
    min_patients_per_update: Count = 0
    """Smallest number of patients of a task in the batches of a round. Else nothing is sent."""
    max_messages: Limit | None = None
    """Largest number of answered orders, over all runs. Approving a recipe starts a new budget."""
    secure_aggregation: bool = False
    """Refuse a federation without secure aggregation."""
    peers: dict[Name, Fingerprint] | None = None
    """Fingerprint of the key of each other site, as compared with its engineer.

    Secure aggregation of a deployed site uses no other keys.
    """
    max_peer_weight: Annotated[float, Field(gt=0, le=1)] = 0.6
    """Largest weight of one site under secure aggregation."""
    max_epsilon: Positive | None = None
    """Largest ε of this site's data over all federations. Without it, there is no limit."""
    delta: Annotated[float, Field(gt=0, lt=1)] = 1e-5
    """δ that goes with `max_epsilon`."""
    max_threads: Limit | None = None
    """Largest number of CPU threads that a federation may ask for."""
    max_cache: Positive | None = None
    """Largest size of the image cache, in GB (10^9 bytes)."""
    max_upload: Positive | None = None
    """Largest message to the server, in MB (10^6 bytes)."""
    max_memory: Positive | None = None
    """Largest memory of the training process, or of its share of the GPU, in GB (10^9 bytes)."""


class SiteConfig(Strict):
    """One site."""

    name: Name
    dataset: DatasetConfig
    tasks: Annotated[dict[str, SiteTask], Field(min_length=1)]
    fold: Path | None = None
    """CSV file (row, split) with splits that replace those of the dataset.

    A study or a simulation writes it.
    """
    device: Annotated[str, Field(pattern=r"^(auto|cpu|cuda(:\d+)?)$")] = "auto"
    threads: Annotated[int, Field(gt=0)] | None = None
    """CPU threads. The default is `training.threads` of the federation."""
    workers: Annotated[int, Field(ge=0)] = 2
    """Threads that decode images during the build of the image cache."""
    cache_dir: Path | None = None
    """Folder of the image cache. The default is ``~/.cache/mdmt``."""
    state_dir: Path | None = None
    """Folder of the site's state. The default is ``~/.local/state/mdmt/<name>``."""
    policy: Policy = Policy()

    @model_validator(mode="after")
    def _policy_knows_its_tasks(self) -> Self:
        unknown = sorted(set(self.policy.tasks or ()) - set(self.tasks))
        if unknown:
            raise ValueError(f"policy.tasks: {unknown[0]} is not one of this site's tasks")
        return self

    @property
    def state_root(self) -> Path:
        """Folder of the site's state, its log and its audit log."""
        return self.state_dir or Path(f"~/.local/state/mdmt/{self.name}").expanduser()

    @property
    def offered(self) -> dict[str, SiteTask]:
        """The tasks that the policy allows."""
        allowed = self.policy.tasks
        return {name: t for name, t in self.tasks.items() if allowed is None or name in allowed}
