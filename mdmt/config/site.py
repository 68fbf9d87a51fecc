"""The hospital's own file: its dataset, its labels, its machine. It is never sent."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import Field, field_validator, model_validator

from mdmt.config.datasets import DatasetConfig
from mdmt.config.policy import Policy
from mdmt.config.types import BesideSpace, Name
from mdmt.strict import Strict

__all__ = ["SiteConfig", "SiteTask"]


class SiteTask(BesideSpace):
    """Where a site's table holds the labels of one task, and what they mean."""

    columns: tuple[str, ...] = ()
    """The table's columns, in the order of the task's outputs; the labels' own names if absent."""
    values: dict[str, str] = {}
    """What cells mean, such as ``{1: SEVERE, 0: MILD}``; an empty meaning is a missing label."""

    @field_validator("columns", mode="before")
    @classmethod
    def _one_column(cls, value: Any) -> Any:
        """Let ``outcome`` stand for ``[outcome]``."""
        return (value,) if isinstance(value, str) else value

    @field_validator("values", mode="before")
    @classmethod
    def _texts(cls, value: Any) -> Any:
        """Read cells and labels as text, however YAML read them."""
        if not isinstance(value, dict):
            return value
        return {_text(cell): _text(label) for cell, label in value.items()}


def _text(value: Any) -> Any:
    """Turn 1 into ``"1"`` and nothing into ``""``; YAML's yes and no have lost their text."""
    if isinstance(value, bool):
        raise ValueError("values: put yes, no, on, off, true and false in quotes")
    return "" if value is None else str(value)


class SiteConfig(Strict):
    """One site."""

    name: Name
    dataset: DatasetConfig
    tasks: Annotated[dict[str, SiteTask], Field(min_length=1)]
    fold: Path | None = None
    """CSV file (row, split) that divides the images instead of the dataset; a study writes it."""
    device: Annotated[str, Field(pattern=r"^(auto|cpu|cuda(:\d+)?)$")] = "auto"
    threads: Annotated[int, Field(gt=0)] | None = None
    """CPU threads; the federation's `training.threads` unless given."""
    workers: Annotated[int, Field(ge=0)] = 2
    """Parallel decoders while the image cache is filled."""
    cache_dir: Path | None = None
    """Preprocessed images; ``~/.cache/mdmt`` unless given."""
    state_dir: Path | None = None
    """The site's heads between rounds; ``~/.local/state/mdmt/<name>`` unless given."""
    policy: Policy = Policy()

    @model_validator(mode="after")
    def _policy_knows_its_tasks(self) -> Self:
        unknown = sorted(set(self.policy.tasks or ()) - set(self.tasks))
        if unknown:
            raise ValueError(f"policy.tasks: {unknown[0]} is not one of this site's tasks")
        return self

    @property
    def state_root(self) -> Path:
        """Where the site keeps its state, its log and its audit log."""
        return self.state_dir or Path(f"~/.local/state/mdmt/{self.name}").expanduser()

    @property
    def offered(self) -> dict[str, SiteTask]:
        """The tasks that the policy lets take part."""
        allowed = self.policy.tasks
        return {name: t for name, t in self.tasks.items() if allowed is None or name in allowed}
