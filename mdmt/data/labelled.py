"""Read new labelled data for a release: a site's file, or a table whose columns are guessed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mdmt.config import FederationConfig, SiteConfig, Table, build_config, load_site
from mdmt.data.guess import guess_columns
from mdmt.data.tabular import TabularFile, read_tabular_file
from mdmt.errors import BadInput

_YAML = {".yaml", ".yml"}


def labelled_site(file: Path, release: FederationConfig, by: Sequence[str] = ()) -> SiteConfig:
    """Return the configuration of labelled data, with those tasks that the release has.

    Parameters
    ----------
    file : Path
        ``site.yaml``, or a CSV or XLSX table in the folder of its images.
    release : FederationConfig
        The recipe of the release.
    by : sequence of str
        Columns of subgroups, in addition to `dataset.metadata`.

    Raises
    ------
    BadInput
        The file cannot be read, disagrees on a label space, or has no label of the release.
    """
    site = load_site(file) if file.suffix.lower() in _YAML else _from_table(file, release)
    tasks = {name: entry for name, entry in site.offered.items() if name in release.tasks}
    if not tasks:
        known = ", ".join(release.tasks)
        raise BadInput(f"{file}: has no labels of a task of the release; its tasks are {known}")
    for name, entry in tasks.items():
        if difference := release.space(name).disagreement(entry.space):
            raise BadInput(f"{file}: task {name}: {difference}")
    dataset = site.dataset
    if by:
        metadata = tuple(dict.fromkeys((*getattr(dataset, "metadata", ()), *by)))
        if "metadata" not in type(dataset).model_fields:
            raise BadInput(f"{file}: --by: a dataset of kind {dataset.kind} has no metadata")
        dataset = dataset.model_copy(update={"metadata": metadata})
    return site.model_copy(update={"tasks": tasks, "dataset": dataset})


def _from_table(file: Path, release: FederationConfig) -> SiteConfig:
    """Guess the columns of a table. A label column has the name or the labels of its task."""
    tabular = read_tabular_file(file)
    guess = guess_columns(tabular)
    tasks = {}
    for name, task in release.tasks.items():
        own = tuple(column or name for column in task.space.columns)
        for found in guess.tasks:
            same = found.labels == task.space.labels
            if found.columns == own or (same and not set(own) <= set(tabular.columns)):
                keys = {"columns": list(found.columns), "values": found.values}
                tasks[name] = _space(task.space) | keys | _separator(found.separator)
        if name not in tasks and set(own) <= set(tabular.columns):
            tasks[name] = _space(task.space)
    if not tasks:
        raise BadInput(_no_labels(tabular, release))
    dataset: dict[str, Any] = {
        "kind": Table.model_fields["kind"].default,
        "root": str(file.resolve().parent),
        "table": file.name,
        "image": guess.image,
        "patient": guess.patient,
        "mask": guess.mask,
    }
    return build_config(SiteConfig, {"name": "data", "dataset": dataset, "tasks": tasks}, file)


def _space(space: Any) -> dict[str, Any]:
    return dict(space.model_dump(mode="json"))


def _separator(separator: str | None) -> dict[str, str]:
    return {} if separator is None else {"separator": separator}


def _no_labels(tabular: TabularFile, release: FederationConfig) -> str:
    needed = "; ".join(
        f"{name}: {', '.join(column or name for column in task.space.columns)}"
        for name, task in release.tasks.items()
    )
    return (
        f"{tabular.path}: no column has labels of the release, which are {needed}; rename columns,"
        " or write a site.yaml (mdmt init) that names them, and give that"
    )
